"""Measures batches and cached prefixes: `python -m gpt2rt_bench.micro.generation 117M-int8`.

Prompts of different lengths in a batch of 32 against one at a time, with their texts compared; and
the time to the first token of a prompt whose prefix was read before. Rounds are interleaved;
figures are medians.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from gpt2rt import GPT2, Bundle, SamplingParams, Stopping
from gpt2rt.bundles import library

PROMPTS, SLOTS, LENGTH, ROUNDS = 64, 32, 64, 3
SHARED, OWN = 512, 8


def main() -> None:
    bundle = library.find(sys.argv[1] if len(sys.argv) > 1 else "117M-int8")
    batches(bundle)
    prefixes(bundle)


def texts(model: GPT2, lengths: list[int]) -> list[str]:
    """Texts of about `lengths` tokens each, of random tokens."""
    rng = np.random.default_rng(0)
    n_vocab = model.hparams.n_vocab
    return [model.tokenizer.decode(rng.integers(0, n_vocab, n).tolist()) for n in lengths]


def batches(bundle: Bundle) -> None:
    model = GPT2(bundle, prefix_bytes=0)
    lengths = np.random.default_rng(1).integers(4, 33, PROMPTS).tolist()
    prompts = texts(model, lengths)
    params = SamplingParams(seed=1, top_k=40)
    stopping = Stopping(LENGTH, end_of_text=False)
    took: dict[int, list[float]] = {1: [], SLOTS: []}
    found: dict[int, list[tuple[int, ...]]] = {}
    for _ in range(ROUNDS):
        for slots, times in took.items():
            began = time.perf_counter()
            done = model.generate_batch(prompts, params, stopping, batch_size=slots)
            times.append(time.perf_counter() - began)
            found[slots] = [completion.tokens for completion in done]
    rate = {slots: PROMPTS * LENGTH / statistics.median(times) for slots, times in took.items()}
    same = sum(one == other for one, other in zip(found[1], found[SLOTS], strict=True))
    print(
        f"{model.name}, {PROMPTS} prompts of 4 to 32 tokens, {LENGTH} tokens each: "
        f"{rate[1]:.0f} tokens/s one at a time, {rate[SLOTS]:.0f} at {SLOTS} slots "
        f"({rate[SLOTS] / rate[1]:.2f} x); {same} of {PROMPTS} texts the same"
    )


def prefixes(bundle: Bundle) -> None:
    """Print the time to the first token for a new prefix and for the same one again."""
    model = GPT2(bundle)
    rng = np.random.default_rng(2)
    first: list[float] = []
    second: list[float] = []
    for _ in range(7):
        shared = rng.integers(0, model.hparams.n_vocab, SHARED).tolist()
        for times in (first, second):
            own = rng.integers(0, model.hparams.n_vocab, OWN).tolist()
            engine = model.engine(1)
            began = time.perf_counter()
            engine.read([engine.start([*shared, *own])])
            times.append((time.perf_counter() - began) * 1e3)
    one, other = statistics.median(first), statistics.median(second)
    print(
        f"{model.name}, prompts of {SHARED + OWN} tokens that share {SHARED}: first token after "
        f"{one:.1f} ms, then {other:.1f} ms ({one / other:.1f} x)"
    )


if __name__ == "__main__":
    main()
