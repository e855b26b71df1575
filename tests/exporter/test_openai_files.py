"""Checkpoints as OpenAI wrote them: read bit for bit, or refused with what is wrong."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2rt import HParams
from gpt2rt.bundles import catalog
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import OpenAICheckpoint, openai
from models import SHARED
from small_openai import DATA, INDEX, SHAPE, VALUES, Save, assert_reads, change_hparams, refusal


def test_a_checkpoint_reads_back_bit_for_bit(published: Path) -> None:
    assert sorted(path.name for path in published.iterdir()) == sorted(catalog.CHECKPOINT_FILES)
    assert_reads(published)


def test_a_checkpoint_is_known_by_its_weights_and_not_by_its_place(
    published: Path, folder: Path, save: Save, tmp_path: Path
) -> None:
    here, there = OpenAICheckpoint(published), OpenAICheckpoint(folder)
    assert here.identity == there.identity
    assert here.origin != there.origin
    other = {**VALUES, "model/ln_f/b": VALUES["model/ln_f/b"] + np.float32(1)}
    assert OpenAICheckpoint(save(tmp_path / "other", other)).identity != here.identity


@pytest.mark.parametrize(
    "path",
    ["/home/someone/models/117M/model.ckpt", r"C:\\Users\\someone\\model.ckpt", "./model.ckpt"],
)
def test_a_path_from_another_machine_does_not_matter(folder: Path, path: str) -> None:
    state = f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "{path}"\n'
    (folder / "checkpoint").write_text(state)
    assert_reads(folder)


def test_a_checkpoint_under_the_usual_name_needs_no_state_file(folder: Path) -> None:
    (folder / "checkpoint").unlink()
    assert_reads(folder)


def test_a_fine_tune_is_read_under_the_name_that_training_gave_it(
    save: Save, tmp_path: Path
) -> None:
    """The last checkpoint counts where training kept several; the optimiser's variables do not."""
    older = {name: np.zeros_like(value) for name, value in VALUES.items()}
    save(tmp_path / "older", older, "model", global_step=900)
    extra = {
        "model/wte/Adam": np.ones_like(VALUES["model/wte"]),
        "model/h0/mlp/c_fc/w/Adam_1": np.ones_like(VALUES["model/h0/mlp/c_fc/w"]),
        "beta1_power": np.float32(0.9),
        "global_step": np.int64(1000),
        "note": np.array(""),
    }
    folder = save(tmp_path / "run", {**VALUES, **extra}, "model", global_step=1000)
    for path in (tmp_path / "older").glob("model-900.*"):
        shutil.copy(path, folder)
    assert (folder / "model-1000.index").is_file()
    assert_reads(folder)


def test_more_numbers_in_hparams_do_not_matter(folder: Path) -> None:
    change_hparams(folder, res_dropout=0.1, note="fine-tuned")
    assert_reads(folder)


def test_a_tokenizer_from_elsewhere_makes_the_checkpoints_own_needless(folder: Path) -> None:
    (folder / "encoder.json").unlink()
    (folder / "vocab.bpe").unlink()
    assert "encoder.json, vocab.bpe missing" in refusal(folder)
    assert OpenAICheckpoint(folder, with_tokenizer=False).hparams == SHAPE


# ---- files missing


def test_no_such_directory(tmp_path: Path) -> None:
    assert "no such directory; name one with `--checkpoint DIR`" in refusal(tmp_path / "none")
    (tmp_path / "file").touch()
    assert "no such directory" in refusal(tmp_path / "file")


def test_missing_files_are_named_all_at_once(folder: Path, tmp_path: Path) -> None:
    wanted = set(catalog.CHECKPOINT_FILES) - {"model.ckpt.meta"}  # TensorFlow's graph: never read
    (tmp_path / "empty").mkdir()
    found = refusal(tmp_path / "empty").split(" missing")[0]
    assert set(found.split(": ")[1].split(", ")) == wanted
    for name in (INDEX, "vocab.bpe"):
        (folder / name).unlink()
    assert f"vocab.bpe, {INDEX} missing" in refusal(folder)


@pytest.mark.parametrize("name", ["hparams.json", "encoder.json", "vocab.bpe", INDEX, DATA])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name} missing" in refusal(folder)


def test_the_file_that_the_state_file_names_is_missed(folder: Path) -> None:
    (folder / "checkpoint").write_text('model_checkpoint_path: "model-77"\n')
    assert "model-77.index, model-77.data-00000-of-00001 missing" in refusal(folder)


@pytest.mark.parametrize("text", ["", "rubbish", "model_checkpoint_path: model.ckpt", "\udcff"])
def test_a_state_file_that_names_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / "checkpoint").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "names no model_checkpoint_path" in refusal(folder)


# ---- hparams.json and the variables at odds


@pytest.mark.parametrize("content", [b"", b"{", b"n_ctx = 8", b"\xff\xfe"])
def test_hparams_that_are_no_json(folder: Path, content: bytes) -> None:
    (folder / "hparams.json").write_bytes(content)
    assert "hparams.json: cannot be read as JSON" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"n_head": None, "n_ctx": None}, "n_ctx, n_head missing"),
        ({"n_head": 3}, "n_embd 8 cannot be divided among n_head 3"),
        ({"n_ctx": "8"}, "n_ctx must be a positive whole number, not '8'"),
        ({"n_embd": 8.0}, "n_embd must be a positive whole number, not 8.0"),
        ({"n_layer": True}, "n_layer must be a positive whole number, not True"),
        ({"n_layer": 0}, "n_layer must be a positive whole number, not 0"),
        ({"n_vocab": -300}, "n_vocab must be a positive whole number, not -300"),
        ({"n_vocab": [300]}, "n_vocab must be a positive whole number"),
    ],
)
def test_hparams_that_describe_no_gpt2(folder: Path, changes: dict[str, Any], fact: str) -> None:
    change_hparams(folder, **changes)
    message = refusal(folder)
    assert "hparams.json: " in message
    assert fact in message


def test_hparams_that_are_no_object(folder: Path) -> None:
    (folder / "hparams.json").write_text("[8, 8]")
    assert "holds list, not an object" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"n_ctx": 16}, r"says: model/wpe is \[8, 8\], not \[16, 8\]$"),
        ({"n_vocab": 301}, r"says: model/wte is \[300, 8\], not \[301, 8\]$"),
        ({"n_layer": 1}, "says: blocks up to h1 where n_layer is 1$"),
        ({"n_layer": 3}, "says: blocks up to h1 where n_layer is 3$"),
        ({"n_layer": 10**12}, "says: blocks up to h1 where n_layer is 1000000000000$"),
    ],
)
def test_hparams_that_contradict_the_variables(
    folder: Path, changes: dict[str, int], fact: str
) -> None:
    change_hparams(folder, **changes)
    assert re.search(fact, refusal(folder))


def test_every_variable_of_another_width_is_named(folder: Path) -> None:
    change_hparams(folder, n_embd=16)
    message = refusal(folder)
    shapes = replace(SHAPE, n_embd=16).variables()
    for name, shape in shapes.items():
        assert f"{name} is {list(VALUES[name].shape)}, not {list(shape)}" in message


def test_variables_missing_and_misshapen_are_named_all_at_once(save: Save, tmp_path: Path) -> None:
    lost = {"model/wpe", "model/h0/attn/c_attn/b", "model/h1/ln_2/g", "model/ln_f/b"}
    values = {name: value for name, value in VALUES.items() if name not in lost}
    values["model/h0/mlp/c_fc/w"] = values["model/h0/mlp/c_fc/w"][0]  # OpenAI's are [1, in, out]
    values["model/wte"] = values["model/wte"].T
    message = refusal(save(tmp_path / "model", values))
    facts = {f"{name} missing" for name in lost}
    facts |= {"model/h0/mlp/c_fc/w is [8, 32], not [1, 8, 32]"}
    facts |= {"model/wte is [8, 300], not [300, 8]"}
    assert set(message.split("says: ")[1].split("; ")) == facts


def test_a_checkpoint_of_something_else_lacks_every_variable(save: Save, tmp_path: Path) -> None:
    message = refusal(save(tmp_path / "model", {"dense/kernel": np.zeros((2, 2), np.float32)}))
    assert "model/wte missing" in message


# ---- the real thing


@pytest.fixture
def real() -> Path:
    index = SHARED / "gpt2-117M-meta" / INDEX
    if not index.is_file():
        pytest.skip(f"{index} is not there")
    pytest.importorskip("tensorflow")
    return index.parent


def test_the_real_117m_has_the_variables_that_its_hparams_promise(real: Path) -> None:
    release = catalog.release("117M")
    assert release is not None
    assert HParams.read(real / "hparams.json") == release.hparams
    _, found = openai.open_reader(real / "model.ckpt")
    assert {name: shape for name, (shape, _) in found.items()} == release.hparams.variables()
    assert {size for _, size in found.values()} == {4}
    assert sum(4 * int(np.prod(shape)) for shape, _ in found.values()) == release.data_bytes


def test_a_data_file_of_the_right_size_is_not_taken_for_the_real_weights(
    real: Path, tmp_path: Path
) -> None:
    for path in real.iterdir():
        shutil.copy(path, tmp_path)
    release = catalog.release("117M")
    assert release is not None
    (tmp_path / DATA).touch()
    os.truncate(tmp_path / DATA, release.data_bytes)  # a hole: takes no space
    checkpoint = OpenAICheckpoint(tmp_path, with_tokenizer=False)
    with pytest.raises(BadCheckpoint, match="variable model/h3/ln_1/g cannot be read"):
        checkpoint.read("model/h3/ln_1/g")
