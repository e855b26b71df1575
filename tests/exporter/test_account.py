"""A checkpoint that is misread does not become a bundle, though TensorFlow reads it the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow")

from checkpoints import huggingface_tensors, save_huggingface, save_npz, save_openai, values_of
from gpt2rt import HParams
from gpt2rt.errors import ParityFailure
from gpt2rt_export import pipeline
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import Checkpoint, npz, open_checkpoint
from gpt2rt_export.sources.state_dict import StateDict
from gpt2rt_export.verify import account
from models import LargerWeights
from nanogpt_files import legacy, nanogpt, saved

SHAPE = HParams(n_vocab=300, n_ctx=20, n_embd=24, n_head=3, n_layer=2)
VALUES = values_of(LargerWeights(SHAPE, seed=5))
HEAD_ALONE = np.random.default_rng(9).normal(size=(300, 24)).astype(np.float32)
SLOTS = {"model/wte/Adam": HEAD_ALONE, "model/lm_head/Adam_1": HEAD_ALONE}
TENSORS = huggingface_tensors(VALUES)
BARE = {n: v for n, v in TENSORS.items() if not n.endswith("bias")}
HEAD = {"lm_head.weight": TENSORS["transformer.wte.weight"]}
MASK = {"transformer.h.0.attn.bias": np.ones((1, 1, 20, 20), np.uint8)}

PLACES: dict[str, Callable[[Path], Path]] = {
    "OpenAI": lambda place: save_openai(place, {**VALUES, **SLOTS}, SHAPE),
    "NumPy": lambda place: save_npz(place, SHAPE, {**VALUES, **SLOTS}),
    "Hugging Face": lambda place: save_huggingface(place, SHAPE, TENSORS | MASK, shards=2),
    "a stored head": lambda place: save_huggingface(place, SHAPE, TENSORS | HEAD),
    "wrapped": lambda place: save_huggingface(
        place, SHAPE, {f"module.{n}": v for n, v in TENSORS.items()}
    ),
    "no biases": lambda place: save_huggingface(place, SHAPE, BARE),
    "bfloat16": lambda place: save_huggingface(place, SHAPE, halved()),
    "old PyTorch": legacy,
    "nanoGPT": nanogpt,
    "nanoGPT with a head": lambda place: saved(place, TENSORS | {"lm_head.weight": HEAD_ALONE}),
}


def halved() -> dict[str, NDArray[Any]]:
    import ml_dtypes

    return {name: value.astype(ml_dtypes.bfloat16) for name, value in TENSORS.items()}


@pytest.mark.parametrize("kind", list(PLACES))
def test_every_format_is_read_as_it_is_written(kind: str, tmp_path: Path) -> None:
    account.check(open_checkpoint(PLACES[kind](tmp_path / "m")))


# ---- readers that are wrong


class Wrong:
    """A checkpoint whose reading of one variable is changed."""

    def __init__(self, whole: Checkpoint, read: Callable[[Checkpoint, str], Any]) -> None:
        self.hparams, self.origin, self.tokenizer = whole.hparams, whole.origin, None
        self.files, self.unused, self.notes = whole.files, whole.unused, whole.notes
        self.identity = whole.identity
        self._whole, self._read = whole, read

    def read(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._read(self._whole, name), np.float32)


def turned(whole: Checkpoint, name: str) -> Any:
    """Square matrices the other way round: no shape tells."""
    values = whole.read(name)
    return values.swapaxes(1, 2) if name.endswith("attn/c_proj/w") else values


def swapped(whole: Checkpoint, name: str) -> Any:
    return whole.read(name.replace("ln_1", "ln_0").replace("ln_2", "ln_1").replace("ln_0", "ln_2"))


def other_block(whole: Checkpoint, name: str) -> Any:
    return whole.read(name.replace("h1/mlp", "h0/mlp"))


def zeros(whole: Checkpoint, name: str) -> Any:
    return whole.read(name) * (0 if name.endswith("ln_f/b") else 1)


@pytest.mark.slow
@pytest.mark.parametrize("read", [turned, swapped, other_block, zeros])
@pytest.mark.parametrize("kind", ["OpenAI", "NumPy", "Hugging Face", "nanoGPT", "old PyTorch"])
def test_a_wrong_reading_is_found(
    kind: str, read: Callable[[Checkpoint, str], Any], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(PLACES[kind](tmp_path / "m"))
    if kind == "nanoGPT" and read is zeros:
        pytest.skip("that file has no biases")
    with pytest.raises(ParityFailure, match=r"was not read as it is written: .* is not what"):
        account.check(Wrong(checkpoint, read))


@pytest.mark.slow
def test_a_head_that_the_reader_overlooks_is_no_bundle(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader takes the checkpoint for tied: TensorFlow and the bundle agree, both wrongly."""
    place = save_npz(tmp_path / "m", SHAPE, {**VALUES, "model/lm_head": HEAD_ALONE})
    keys = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    (tmp_path / "m/hparams.json").write_text(json.dumps({key: getattr(SHAPE, key) for key in keys}))
    monkeypatch.setattr(npz, "with_own_head", lambda hparams, found, read: hparams)
    with pytest.raises(ParityFailure, match=r"model/lm_head is not what was read as model/wte"):
        pipeline.export(Recipe("m", checkpoint=place))
    assert not (home / "bundles" / "m-fp32").exists()


def test_an_array_that_is_neither_used_nor_named_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = save_npz(tmp_path / "m", SHAPE, {**VALUES, "model/h0/gate/w": HEAD_ALONE})
    monkeypatch.setattr(npz, "unused", lambda hparams, found: [])
    with pytest.raises(ParityFailure, match=r"model/h0/gate/w is neither used nor named"):
        account.check(open_checkpoint(place))


def test_a_reader_that_forgets_to_turn_square_matrices_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = StateDict.is_transposed

    def forgets(self: StateDict, name: str) -> bool:
        return turns(self, name) and "attn.c_proj" not in name

    monkeypatch.setattr(StateDict, "is_transposed", forgets)
    checkpoint = open_checkpoint(nanogpt(tmp_path / "m"))
    with pytest.raises(ParityFailure, match=r"attn\.c_proj\.weight is not what was read as"):
        account.check(checkpoint)


@pytest.mark.parametrize("name", list(SHAPE.variables()))
def test_names_in_every_spelling_say_the_same_part(name: str) -> None:
    (theirs,) = huggingface_tensors({name: VALUES[name]})
    assert account.part_of(name) == account.part_of(theirs) == account.part_of(f"module.{theirs}")


def test_parts_are_told_apart() -> None:
    parts = [account.part_of(name) for name in (*SHAPE.variables(), "model/lm_head")]
    assert len(set(parts)) == len(parts)
    assert () not in parts
