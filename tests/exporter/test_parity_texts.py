"""The text of the parity check: what a model knows, and what it has never seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

pytest.importorskip("tensorflow")

from checkpoints import huggingface_config, huggingface_tensors
from command_line import Command
from gpt2rt import GPT2, Passage
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.errors import BadText
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export import pipeline
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import OpenAICheckpoint, RandomCheckpoint
from gpt2rt_export.verify import agreement, parity, reference
from gpt2rt_export.verify.agreement import Loss
from gpt2rt_export.verify.sample import Sample
from models import TINY, LargerWeights, make_bundle
from parity_cases import LAYER, DamagedCheckpoint, measured


@dataclass(frozen=True)
class Sharp(LargerWeights):
    """Logits so far apart that English costs hundreds of nats a token."""

    def read(self, name: str) -> NDArray[np.float32]:
        values = super().read(name)
        return values * np.float32(100) if name == "model/ln_f/g" else values


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("factor", [3.0, 6.0, 20.0])
def test_honest_exports_of_models_that_do_not_know_the_text_pass(
    precision: str, factor: float, tmp_path: Path
) -> None:
    weights = Sharp(TINY, 7, factor)
    report = measured(make_bundle(tmp_path / "b", weights, precision), weights)
    assert report.loss.tensorflow > 30
    assert not report.loss.known
    assert report.failures() == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("mlp/c_proj/w", np.negative),
        ("attn/c_proj/w", lambda values: np.swapaxes(values, -1, -2)),
        ("ln_1/g", lambda values: values * np.float32(2)),
    ],
)
def test_a_wrong_part_of_such_a_model_fails(
    precision: str,
    part: str,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    weights = Sharp(TINY, 7, 6.0)
    wrong = DamagedCheckpoint(weights, f"model/h{LAYER}/{part}", change)
    assert measured(make_bundle(tmp_path / "b", wrong, precision), weights).failures()


@pytest.mark.slow
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "int4"])
def test_4_bits_under_the_name_of_more_fail(precision: str, tmp_path: Path) -> None:
    weights = Sharp(TINY, 7, 6.0)
    directory = make_bundle(tmp_path / "b", weights, "int4").directory
    assert parity.measure(directory, weights, "fused", precision).failures()


def test_a_text_is_known_where_it_is_read_better_than_by_its_frequencies() -> None:
    tokens = [0, 1, 2, 3] * 8
    guess = agreement.guess_of(tokens, 300)
    assert guess == pytest.approx(math.log(4))
    assert agreement.guess_of(range(1000), 300) == math.log(300)
    for nats, known in ((1.0, True), (2.0, False)):
        assert Loss.of(np.full(32, nats), np.full(32, nats), guess).known is known


def test_the_text_is_the_one_given_else_held_out_else_english(tmp_path: Path) -> None:
    assert Sample.choose(None, tmp_path).source == "English prose"
    (tmp_path / "heldout.txt").write_text("e4 e5\n")
    assert Sample.choose(None, tmp_path).text == "e4 e5\n"
    own = tmp_path / "own.txt"
    own.write_bytes("\ufeffACGT".encode())
    assert Sample.choose(own, tmp_path) == Sample("ACGT", "own.txt")
    for content in (b"\xff\xfe", b" \n"):
        own.write_bytes(content)
        with pytest.raises(BadText, match=r"own\.txt: "):
            Sample.choose(own, None)
    with pytest.raises(BadText, match=r"none\.txt: "):
        Sample.choose(tmp_path / "none.txt", None)


@pytest.mark.slow
def test_export_and_verify_read_the_text_that_they_are_given_and_say_so(
    command: Command, home: Path, tmp_path: Path
) -> None:
    text = tmp_path / "own.txt"
    text.write_text("1. e4 e5 2. Nf3 Nc6 3. Bb5 a6\n" * 20)
    ended = command("export", "demo", "--parity-text", text)
    assert ended.code == 0
    assert "own.txt" in ended.out
    place = home / "bundles" / "demo-fp32"
    report = Bundle.open(place).parity()
    assert (report["text"], report["known"]) == ("own.txt", False)
    (row,) = command("verify", place, "--parity-text", text, "--json").records
    assert (row["text"], row["known"], row["perplexity"]) == (
        "own.txt",
        False,
        report["perplexity"],
    )
    (row,) = command("verify", place, "--json").records
    assert (row["text"], row["known"]) == ("the checkpoint's heldout.txt", True)
    refused = command("export", "demo", "--force", "--parity-text", tmp_path / "none.txt")
    assert "none.txt: No such file" in refused.err
    assert (
        "no verification"
        in command("export", "demo", "--no-verify", "--parity-text", text, "--force").err
    )


@pytest.mark.slow
@pytest.mark.parametrize("letters", ["e", "et", "eta"])
def test_a_model_of_few_tokens_passes(letters: str, tmp_path: Path) -> None:
    hparams = replace(TINY, n_vocab=len(letters) + 1)
    values = {name: RandomCheckpoint(hparams, 3).read(name) for name in hparams.variables()}
    place = tmp_path / "few"
    place.mkdir()
    save_file(huggingface_tensors(values), place / "model.safetensors", metadata={"format": "pt"})
    (place / "config.json").write_text(
        json.dumps(huggingface_config(hparams, bos_token_id=0, eos_token_id=0))
    )
    vocabulary = {"<|endoftext|>": 0} | {c: i for i, c in enumerate(letters, 1)}
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    recipe = Recipe("few", "int8", checkpoint=place, output=tmp_path / "bundle")
    assert pipeline.export(recipe).parity()["uncached"]["top5"] == 1


# ---- gates


PROMISED = {"fp32": 0.001, "fp16": 0.001, "int8": 0.003, "int4": 0.02}


@pytest.fixture(scope="module")
def heldout() -> tuple[list[Passage], NDArray[np.float64]]:
    """A text of the demo's kind, a context after the other, and TensorFlow's nats a token."""
    demo = catalog.demo_checkpoint()
    checkpoint, tokenizer = OpenAICheckpoint(demo), Tokenizer.read(demo)
    tokens = tokenizer.encode((demo / "heldout.txt").read_text(encoding="utf-8"))
    starts = range(0, len(tokens), n_ctx := checkpoint.hparams.n_ctx)
    passages = [Passage((tokenizer.start_of_text, *tokens[at : at + n_ctx])) for at in starts]
    nats = []
    for passage in passages:
        rows = agreement.log_softmax(reference.read(checkpoint, passage.tokens[:-1]).logits())
        nats.append(-rows[range(len(rows)), passage.tokens[1:]])
    return passages, np.concatenate(nats)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_demo_keeps_its_perplexity_on_its_own_kind_of_text(
    precision: str, heldout: tuple[list[Passage], NDArray[np.float64]], tmp_path: Path
) -> None:
    """What is promised of a text that the model knows; any text has to pass the gate only."""
    recipe = Recipe("demo", precision, output=tmp_path / "bundle", verify=False)
    model = GPT2.load(pipeline.export(recipe).directory)
    passages, wanted = heldout
    found = [-scores.logprobs for scores in model.score_tokens(passages)]
    assert len(wanted) > 10_000
    assert abs(Loss.of(wanted, np.concatenate(found)).change) < PROMISED[precision]
