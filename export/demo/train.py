"""Trains the demo model: a GPT-2 of one million parameters that generates short stories.

Learns a vocabulary, trains the exporter's own TensorFlow graph on stories drawn from
`stories.grammar`, and writes a checkpoint in OpenAI's format. At the end it prints the mean loss of
held-out stories in nats by the model and by the grammar, which is the lower bound; more than 10 %
above that counts as a failure (exit code 1).

The same seed gives the same bytes on one machine with the same versions.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer

import checkpoint
import vocabulary
from corpus import Tokens, batches, single, stream
from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph.graph import empty_past, gpt2
from grammar import Rules, Story, entropy, read_grammar
from optimiser import AdamW, Schedule

OUTPUT = Path(__file__).parents[2] / "gpt2rt" / "demo" / "checkpoint"
SHAPE = {"n_ctx": 512, "n_embd": 128, "n_head": 2, "n_layer": 4}

TOO_HIGH = 1.10  # held-out loss over floor
N_VOCABULARY = 20_000  # stories that the BPE is learnt from
N_HELD_OUT = 1_000  # stories that the loss is measured on
N_EXAMPLES = 50  # of these go into heldout.txt

# A story has about 280 tokens. Three steps in four see a story and the beginning of the next one;
# every fourth step fills the whole context, so that stories can follow one another in it.
LENGTHS = (384, 384, 384, 512)
BATCH = 4

Weights = dict[str, tf.Variable]
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


# ---------------------------------------------------------------- train


def keep_memory() -> None:
    """Make glibc keep freed memory, since asking for it again takes a quarter of the time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(ctypes.c_int(-4), ctypes.c_int(0))  # M_MMAP_MAX: nothing by mmap
        libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD: never


def initial_weights(hparams: HParams, seed: int) -> Weights:
    """GPT-2's initial weights: normal 0.02 (positions 0.01), scaled down before residual sums."""
    rng = np.random.default_rng(seed)
    residual = 1 / np.sqrt(2 * hparams.n_layer)
    scales = {"w": 0.02, "wte": 0.02, "wpe": 0.01}
    weights = {}
    for name, shape in hparams.variables().items():
        kind = name.rsplit("/", 1)[1]
        if kind in scales:
            scale = scales[kind] * (residual if "c_proj" in name else 1)
            value = rng.normal(0, scale, shape)
        else:
            value = np.full(shape, 1.0 if kind == "g" else 0.0)
        weights[name.removeprefix("model/")] = tf.Variable(value.astype(np.float32))
    return weights


def token_losses(tokens: tf.Tensor, weights: Weights, hparams: HParams) -> tf.Tensor:
    """Nats for every token after the first: [B,S] -> [B,S-1]."""
    X = tokens[:, :-1]
    logits, _ = gpt2(X, empty_past(hparams, X.shape[0]), weights, hparams)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[:, 1:], logits)


def training_step(weights: Weights, hparams: HParams) -> Step:
    """One compiled step: (tokens, learning rate, step) -> mean loss."""
    variables = list(weights.values())
    optimiser = AdamW(variables)

    def step(tokens: tf.Tensor, rate: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(token_losses(tokens, weights, hparams))
        gradients = map(tf.convert_to_tensor, tape.gradient(loss, variables))
        optimiser.apply(list(gradients), rate, number)
        return loss

    compiled: Step = tf.function(step, jit_compile=True)
    return compiled


def train(
    weights: Weights, hparams: HParams, windows: Iterator[Tokens], schedule: Schedule
) -> None:
    step = training_step(weights, hparams)
    columns = (*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[loss]} nats a token")) as progress:
        task = progress.add_task("training", total=schedule.steps, loss="?")
        for number, tokens in zip(range(schedule.steps), windows, strict=False):
            rate = tf.constant(schedule.rate(number), tf.float32)
            loss = step(tf.constant(tokens), rate, tf.constant(number))
            progress.update(task, advance=1, loss=f"{float(loss):.3f}")
            if (number + 1) % 200 == 0:
                progress.console.print(f"step {number + 1}: {float(loss):.3f} nats a token")


# ---------------------------------------------------------------- measure


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Nats per held-out story, the closing `<|endoftext|>` included."""

    floor: float  # what the grammar itself gives these stories
    loss: float  # what the model gives them

    @property
    def ratio(self) -> float:
        return self.loss / self.floor


def measure(
    weights: Weights, hparams: HParams, stories: list[Story], tokenizer: Tokenizer
) -> HeldOutLoss:
    losses = tf.function(lambda rows: token_losses(rows, weights, hparams), reduce_retracing=True)
    total = 0.0
    for first in range(0, len(stories), 20):
        tokens, counts = single(stories[first : first + 20], tokenizer)
        total += float(np.sum(losses(tf.constant(tokens)).numpy() * counts, dtype=np.float64))
    return HeldOutLoss(
        floor=float(np.mean([-story.log_probability for story in stories])),
        loss=total / len(stories),
    )


# ---------------------------------------------------------------- write


def write_folder(
    folder: Path, weights: Weights, hparams: HParams, tokenizer: Tokenizer, stories: list[Story]
) -> None:
    """Write the checkpoint beside its place, then move it there as a whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        new.mkdir()
        vocabulary.write(tokenizer, new)
        values = {f"model/{name}": variable.numpy() for name, variable in weights.items()}
        checkpoint.write(values, hparams, new)
        between = f"\n{vocabulary.END_OF_TEXT}\n"
        text = between.join(story.text for story in stories[:N_EXAMPLES]) + "\n"
        (new / "heldout.txt").write_text(text, "utf-8")
        if folder.exists():
            folder.rename(old)
        shutil.move(new, folder)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train the demo model and write it as an OpenAI checkpoint.",
        epilog="example: python export/demo/train.py --output my-demo --steps 300",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write (replaced)")
    parser.add_argument("--steps", type=int, default=4200, help="training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="fixes everything (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    keep_memory()
    tf.config.experimental.enable_op_determinism()
    console = Console()
    rules: Rules = read_grammar()
    console.print(f"grammar: {entropy(rules):.2f} nats a story")

    lesson = itertools.islice(stream(rules, "vocabulary", options.seed), N_VOCABULARY)
    tokenizer = vocabulary.learn(story.text for story in lesson)
    n_vocab = vocabulary.end_of_text(tokenizer) + 1
    hparams = HParams.from_dict({"n_vocab": n_vocab, **SHAPE}, __file__)
    held_out = list(itertools.islice(stream(rules, "held-out", options.seed), N_HELD_OUT))

    stories = stream(rules, "training", options.seed)
    lengths = [batches(stories, tokenizer, BATCH, length + 1) for length in LENGTHS]
    windows = (next(rows) for rows in itertools.cycle(lengths))
    weights = initial_weights(hparams, options.seed)
    train(weights, hparams, windows, Schedule(options.steps))

    figures = measure(weights, hparams, held_out, tokenizer)
    write_folder(options.output, weights, hparams, tokenizer, held_out)
    console.print(
        f"floor {figures.floor:.2f}, held-out loss {figures.loss:.2f} nats a story"
        f" ({N_HELD_OUT} stories): ratio {figures.ratio:.4f}"
    )
    return 1 if figures.ratio > TOO_HIGH else 0


if __name__ == "__main__":
    sys.exit(main())
