"""Damage to a checkpoint of OpenAI's: found before a wrong weight gets into a bundle."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.sources import OpenAICheckpoint
from models import skeleton
from small_openai import DATA, INDEX, SHAPE, VALUES, Save, assert_reads, read_all, refusal


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9999])
def test_a_data_file_cut_short_is_found_before_any_work(folder: Path, part: float) -> None:
    data = (folder / DATA).read_bytes()
    kept = int(len(data) * part)
    (folder / DATA).write_bytes(data[:kept])
    message = refusal(folder)
    assert f"{DATA}: {kept} bytes, but the index promises {len(data)}" in message
    assert "cut short" in message


@pytest.mark.parametrize(
    "name", ["model/wte", "model/wpe", "model/h0/attn/c_attn/w", "model/h1/ln_1/g", "model/ln_f/b"]
)
def test_a_flipped_bit_of_a_variable_is_found_and_the_variable_named(
    folder: Path, name: str
) -> None:
    data = bytearray((folder / DATA).read_bytes())
    at = data.find(VALUES[name].tobytes())
    assert at >= 0
    for position in (at, at + VALUES[name].nbytes - 1):
        damaged = bytearray(data)
        damaged[position] ^= 1
        (folder / DATA).write_bytes(damaged)
        checkpoint = OpenAICheckpoint(folder)
        with pytest.raises(BadCheckpoint, match=f"variable {name} cannot be read .*damaged"):
            checkpoint.read(name)
        for other in VALUES.keys() - {name}:
            np.testing.assert_array_equal(checkpoint.read(other), VALUES[other])


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_of_the_index_is_refused_or_harmless(folder: Path, seed: int) -> None:
    index = (folder / INDEX).read_bytes()
    random = np.random.default_rng(seed)
    # The footer at the end holds places and padding without a checksum: a third of the tries there.
    places = [*random.integers(0, len(index), 8), *random.integers(len(index) - 48, len(index), 4)]
    for position in places:
        damaged = bytearray(index)
        damaged[position] ^= 1 << random.integers(8)
        (folder / INDEX).write_bytes(damaged)
        with suppress(BadCheckpoint):
            assert_reads(folder)


def test_an_index_cut_short_is_refused(folder: Path) -> None:
    index = (folder / INDEX).read_bytes()
    for kept in (0, 1, 47, 48, len(index) // 2, len(index) - 1):
        (folder / INDEX).write_bytes(index[:kept])
        assert f"{INDEX}: cannot be read" in refusal(folder)


def test_files_of_two_checkpoints_do_not_pass_for_one(
    folder: Path, save: Save, tmp_path: Path
) -> None:
    other = save(tmp_path / "other", {name: value * 2 for name, value in VALUES.items()})
    shutil.copy(other / DATA, folder / DATA)
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        read_all(folder)


def test_weights_that_are_not_finite_are_refused_by_name(save: Save, tmp_path: Path) -> None:
    spoilt = {name: value.copy() for name, value in VALUES.items()}
    spoilt["model/wte"][299, 7] = np.nan
    spoilt["model/h1/mlp/c_proj/w"][0, 0, 0] = np.inf
    spoilt["model/ln_f/b"][3] = -np.inf
    checkpoint = OpenAICheckpoint(save(tmp_path / "model", spoilt))
    for storage in STORAGE.values():
        model, weights = fuse(skeleton(SHAPE), SHAPE, storage, "float16")
        with pytest.raises(BadCheckpoint) as caught, np.errstate(invalid="ignore"):
            attach([model], weights, checkpoint, tmp_path / "weights.bin")
        names = "model/h1/mlp/c_proj/w, model/ln_f/b, model/wte"
        assert f"{tmp_path / 'model'}: NaN or infinity in {names};" in str(caught.value)


def test_a_checkpoint_attaches_whole(published: Path, tmp_path: Path) -> None:
    """Every variable is asked for, and the bytes that progress is told of are those of all."""
    told: list[int] = []
    model, weights = fuse(skeleton(SHAPE), SHAPE, STORAGE["fp32"], "float32")
    path = tmp_path / "weights.bin"
    attach([model], weights, OpenAICheckpoint(published), path, told.append)
    assert {weight.source for weight in weights} == set(SHAPE.variables())
    onnx.save(model, tmp_path / "model.onnx")
    data = path.read_bytes()
    assert VALUES["model/wte"].tobytes() in data
    assert VALUES["model/h1/mlp/c_proj/w"][0].T.tobytes() in data, "stored by the output"
    assert VALUES["model/ln_f/b"].tobytes() in data
    assert sum(told) == sum(value.nbytes for value in VALUES.values())
