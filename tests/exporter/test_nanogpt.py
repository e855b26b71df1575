"""nanoGPT's `ckpt.pt` and PyTorch's files from before 1.6, as the originals wrote them.

The files in `published/` were written by nanoGPT's and Transformers' own models and PyTorch 2;
`logits.json` has what these made of a text.
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from checkpoints import huggingface_tensors, values_of
from command_line import Command
from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadCheckpoint, BadTokenizer, DownloadFailure
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export import model_tokenizer, pipeline
from gpt2rt_export.fetch.download import vocabulary
from gpt2rt_export.origin import checkpoint_of
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import open_checkpoint
from gpt2rt_export.sources.torch_file import TorchFile
from gpt2rt_export.tokenizers.characters import write_characters
from gpt2rt_export.verify import reference as tensorflow
from models import LargerWeights
from nanogpt_files import ARGS, FILES, TENSORS, legacy, nanogpt, saved
from torch_files import PickledCall, PickledGlobal, dumped, tensor

LOGITS = json.loads((FILES / "logits.json").read_text())
VALUES = np.ones(3, np.float32)
ALPHABET = "\n abcdefgéß世界"


def meta(folder: Path, characters: str, **changes: Any) -> None:
    """`meta.pkl` as `prepare.py` writes it."""
    body = {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(body | changes))


def assert_logits(place: Path, name: str) -> None:
    checkpoint = open_checkpoint(place)
    wanted = np.array(LOGITS[name]["logits"])
    found = tensorflow.read(checkpoint, LOGITS[name]["tokens"]).logits()
    np.testing.assert_allclose(found, wanted, atol=5e-5)


@pytest.mark.parametrize("name", ["nanogpt.pt", "nanogpt-biases.pt"])
def test_nanogpts_own_file_gives_nanogpts_logits(name: str, tmp_path: Path) -> None:
    folder = nanogpt(tmp_path / "out", name)
    assert_logits(folder, name)
    assert_logits(folder / "ckpt.pt", name)


def test_what_was_passed_over_is_said(tmp_path: Path) -> None:
    said = " ".join(open_checkpoint(nanogpt(tmp_path / "out")).notes)
    assert "Pass over _orig_mod in the names" in said
    assert "Leave out best_val_loss, config, iter_num, optimizer: no part" in said
    assert "The layers and norms have no biases" in said
    assert "GELU" in said


def test_the_form_of_gelu_is_by_the_age_of_the_file(tmp_path: Path) -> None:
    new = open_checkpoint(saved(tmp_path / "new"))
    old = open_checkpoint(saved(tmp_path / "old", model_args=ARGS))
    assert (new.hparams.activation, old.hparams.activation) == ("gelu", "gelu_new")
    assert not any("GELU" in note for note in old.notes)


def test_a_head_of_its_own_is_used(tmp_path: Path) -> None:
    head = np.ones((300, 24), np.float32)
    checkpoint = open_checkpoint(saved(tmp_path / "m", {**TENSORS, "lm_head.weight": head}))
    assert not checkpoint.hparams.tied
    np.testing.assert_array_equal(checkpoint.read("model/lm_head"), head)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"model_args": {**ARGS, "rope": True}}, r"model_args has 'rope', which no GPT-2 has"),
        ({"model_args": {"n_layer": 2}}, r"model_args: n_ctx, n_embd, n_head, n_vocab missing"),
        ({"model_args": {**ARGS, "n_layer": 3}}, "blocks up to h1 where n_layer is 3"),
        ({"model_args": {**ARGS, "n_layer": 1 << 60}}, "blocks up to h1"),
        ({"model_args": None}, "has no model_args, so nanoGPT did not write it"),
        ({"model": None}, "holds NoneType, not tensors"),
        (
            {"tensors": {**TENSORS, "transformer.h.0.attn.rotary": np.ones(3, np.float32)}},
            "no part of a GPT",
        ),
    ],
)
def test_what_is_no_nanogpt_is_refused(changes: dict[str, Any], fact: str, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=fact):
        open_checkpoint(saved(tmp_path / "m", **changes))


# ---- its vocabularies


def test_characters_are_tokens_of_their_own(tmp_path: Path) -> None:
    meta(tmp_path, ALPHABET)
    (work := tmp_path / "work").mkdir()
    write_characters(tmp_path, len(ALPHABET), work)
    tokenizer = Tokenizer.read(work)
    text = "cab\nß  é世aa界\n\n bad"
    assert tokenizer.encode(text) == [ALPHABET.index(c) for c in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.start_of_text == ALPHABET.index("\n")
    assert tokenizer.n_vocab == len(ALPHABET)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"stoi": None}, "has no stoi"),
        ({"stoi": {"a": 0, "b": 7}}, r"2 characters, but n_vocab is 13"),
        ({"stoi": {"the": 0}}, "'the' is no character"),
        ({"stoi": {"\ud800": 0}}, r"'\\ud800' is no character"),
        ({"stoi": {1: 0}}, "1 is no character"),
        ({"stoi": {"a": "b"}}, "has no stoi"),
        ({"encode": print}, "asks for 'builtins.print', which is no tensor"),
    ],
)
def test_a_meta_file_of_something_else_is_refused(
    changes: dict[str, Any], fact: str, tmp_path: Path
) -> None:
    meta(tmp_path, ALPHABET, **changes)
    with pytest.raises(BadTokenizer, match=fact):
        write_characters(tmp_path, 13, tmp_path)


@pytest.mark.slow
def test_a_model_of_characters_is_exported_and_speaks(
    home: Path, command: Command, tmp_path: Path
) -> None:
    folder = nanogpt(tmp_path / "chars")
    meta(folder, ALPHABET)
    command("export", str(folder))
    bundle = Bundle.open(home / "bundles" / "chars-fp32")
    assert any("optimizer" in note for note in bundle.manifest.notes)
    assert bundle.verified
    model = GPT2.load(bundle.directory)
    text = model.generate("ab", SamplingParams(seed=1), Stopping(length=4)).text
    assert set(text) <= set(ALPHABET)
    said = command("models", "info", "chars-fp32").out
    assert "notes: Leave out best_val_loss" in said


@pytest.mark.slow
def test_a_padded_vocabulary_of_gpt2s_tokens_is_trimmed(
    real_vocabulary: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token beyond the tokenizer's can never be drawn: the bundle has no row for it."""
    hparams = HParams(50304, 20, 8, 2, 1, activation="gelu")
    tensors = huggingface_tensors(values_of(LargerWeights(hparams, seed=5)))
    args = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 20, "vocab_size": 50304}
    path = saved(tmp_path / "m", tensors, model_args={**args, "bias": True})
    monkeypatch.setattr(model_tokenizer, "vocabulary", lambda: real_vocabulary)
    bundle = pipeline.export(Recipe("m", checkpoint=path))
    assert bundle.manifest.hparams == replace(hparams, n_vocab=50257)
    assert "Leave out 47 of the 50,304 rows" in " ".join(bundle.manifest.notes)
    fitted = checkpoint_of(bundle.manifest, path)
    whole = open_checkpoint(path).read("model/wte")
    np.testing.assert_array_equal(fitted.read("model/wte"), whole[:50257])


def test_a_vocabulary_of_nobody_is_asked_for(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadTokenizer, match=r"no tokenizer there .*meta\.pkl"):
        pipeline.export(Recipe("m", checkpoint=nanogpt(tmp_path / "m")))


def test_gpt2s_tokens_are_looked_for_alone(
    real_vocabulary: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No release's weights are wanted, and files of any release will do."""
    monkeypatch.setenv("GPT2RT_OFFLINE", "1")
    with pytest.raises(DownloadFailure, match=r"117M: (encoder\.json, vocab\.bpe) missing"):
        vocabulary()
    place = catalog.checkpoint_directory("117M")
    place.mkdir(parents=True)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(real_vocabulary / name, place / name)
    assert vocabulary() == place
    (place / "vocab.bpe").write_text("#version: 0.2\n")
    with pytest.raises(DownloadFailure, match=r"vocab\.bpe: 14 bytes, not 456,318"):
        vocabulary()


# ---- PyTorch's format before 1.6


def test_an_old_file_gives_transformers_logits(tmp_path: Path) -> None:
    assert_logits(legacy(tmp_path / "m"), "legacy.bin")


def test_an_old_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    data = (FILES / "legacy.bin").read_bytes()
    path = tmp_path / "x.bin"
    for end in [*range(0, len(data), 101), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(BadCheckpoint, match=r"x\.bin: "):
            TorchFile(path)


OLD = [dumped(0x1950A86A20F9469CFC6C), dumped(1001), dumped({"little_endian": True})]
STORAGE = {"a": tensor("0", np.arange(3, dtype=np.float32))}
BYTES = (3).to_bytes(8, "little") + bytes(12)


@pytest.mark.parametrize(
    ("parts", "fact"),
    [
        ([dumped(0x1950A86A20F9469CFC6D), *OLD[1:]], "a pickle, but none of torch.save"),
        ([OLD[0], dumped(1002), OLD[2]], "a pickle, but none of torch.save"),
        ([*OLD[:2], dumped({"little_endian": False})], "another byte order"),
        ([*OLD[:2], dumped([1])], "another byte order"),
        (
            [*OLD, dumped({"a": PickledCall(PickledGlobal("os", "system"), "true")})],
            "asks for 'os.system'",
        ),
        (
            [*OLD, dumped(STORAGE), dumped(PickledCall(PickledGlobal("os", "system"), "true"))],
            "asks for",
        ),
        ([*OLD, dumped(STORAGE), dumped({"0": 1})], "no list of its storages"),
        ([*OLD, dumped(STORAGE), dumped(["1"]), BYTES], "are not those of its tensors"),
        ([*OLD, dumped(STORAGE), dumped(["0", "0"]), BYTES], "are not those of its tensors"),
        ([*OLD, dumped(STORAGE), dumped(["0"]), BYTES[:-1]], "cut short"),
        ([*OLD, dumped(STORAGE), dumped(["0"]), b"\4" + BYTES[1:]], "of another size"),
        ([b"\x80\x02."], "damaged pickle"),
    ],
)
def test_an_old_file_of_something_else_is_refused(
    parts: list[bytes], fact: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"".join(parts))
    with pytest.raises(BadCheckpoint, match=fact):
        TorchFile(path)


def test_an_old_file_made_here_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"".join([*OLD, dumped(STORAGE), dumped(["0"]), BYTES]))
    np.testing.assert_array_equal(TorchFile(path).read("a"), np.zeros(3, np.float32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flipped_bytes_of_an_old_file_are_values_or_an_error(tmp_path: Path) -> None:
    whole = (FILES / "legacy.bin").read_bytes()
    random = np.random.default_rng(5)
    for _ in range(200):
        data = bytearray(whole)
        data[random.integers(3800)] ^= 1 << random.integers(8)
        (tmp_path / "x.bin").write_bytes(data)
        try:
            file = TorchFile(tmp_path / "x.bin")
            for name in file.tensors:
                file.read(name)
        except BadCheckpoint:
            continue
