"""The index of a checkpoint: read without TensorFlow, or refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

pytest.importorskip("google_crc32c")

import google_crc32c

import hollow
from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import DATA, INDEX, Release
from gpt2rt.bundles.protobuf import fields
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.fetch.integrity import fault
from gpt2rt_export.fetch.tensor_bundle import mask, read_index
from hollow import write_hollow
from models import SHARED
from openai_files import SHAPE, write_release

SIZES = pytest.mark.parametrize("release", catalog.RELEASES, ids=lambda release: release.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_release(tmp_path / "model")
    return tmp_path / "model"


def test_the_mask_is_that_of_leveldb() -> None:
    """crc32c of "123456789" is a published check value; masking adds a constant to a rotation."""
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert mask(0) == 0xA282EAD8
    assert mask(1) == (1 << 17) + 0xA282EAD8
    assert mask(1 << 15) == 1 + 0xA282EAD8


def test_the_real_117m_reads_as_recorded() -> None:
    """Every variable with its type, shape, place, size and checksum, as another reader had them."""
    path = SHARED / "gpt2-117M-meta" / INDEX
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    recorded = json.loads(path.with_name("tensor_crc32c.json").read_text())
    found = read_index(path)
    assert len(found) == 148
    assert {
        name: {
            "dtype": variable.dtype,
            "shape": list(variable.shape),
            "offset": variable.offset,
            "size": variable.bytes,
            "crc32c": variable.crc32c,
        }
        for name, variable in found.items()
    } == recorded
    assert all(variable.shard == 0 and variable.fits for variable in found.values())


def test_the_demo_as_tensorflow_wrote_it() -> None:
    """Each variable lies where the index says, with the bytes whose checksum it keeps."""
    folder = catalog.demo_checkpoint()
    data = (folder / DATA).read_bytes()
    found = read_index(folder / INDEX)
    tf = pytest.importorskip("tensorflow")
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
    assert found.keys() == reader.get_variable_to_shape_map().keys()
    for name, variable in found.items():
        held = data[variable.offset : variable.offset + variable.bytes]
        assert mask(google_crc32c.value(held)) == variable.crc32c
        values = reader.get_tensor(name)
        assert (values.shape, values.tobytes()) == (variable.shape, held)


def test_an_index_damaged_or_cut_short_is_refused(folder: Path) -> None:
    """A flipped bit anywhere but in what nobody reads: padding and the empty meta-index."""
    path = folder / INDEX
    whole, before = path.read_bytes(), read_index(path)
    random = Random(5)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        with suppress(BadCheckpoint):
            assert read_index(path) == before
            refused -= 1
        refused += 1
    assert refused > 450
    for kept in [0, 1, 47, 48, 49, *random.sample(range(len(whole)), 100)]:
        path.write_bytes(whole[:kept])
        with pytest.raises(BadCheckpoint, match="not the index of a checkpoint"):
            read_index(path)


def test_random_bytes_are_no_index_and_no_message(tmp_path: Path) -> None:
    random = Random(6)
    for length in range(200):
        data = random.randbytes(length)
        (tmp_path / INDEX).write_bytes(data)
        with pytest.raises(BadCheckpoint):
            read_index(tmp_path / INDEX)
        with suppress(ValueError, IndexError):
            assert all(number > 0 for number, _ in fields(data))
    with pytest.raises(BadCheckpoint, match="No such file"):
        read_index(tmp_path / "none")


def test_an_index_of_another_layout_is_no_released_one(folder: Path, tmp_path: Path) -> None:
    release = write_release(tmp_path / "again")
    assert fault(INDEX, folder / INDEX, release, folder) is None
    for other in (replace(SHAPE, n_layer=1), replace(SHAPE, n_ctx=9)):
        found = fault(INDEX, folder / INDEX, replace(release, hparams=other), folder)
        assert found == "not the variables of 117M"
    shorter = replace(release, data_bytes=release.data_bytes - 4)
    assert "16,896 bytes of data" in str(fault(INDEX, folder / INDEX, shorter, folder))


# ---- all sizes, as holes: zeros that take no space, with true checksums


@SIZES
def test_every_size_is_opened_and_its_index_found_good(release: Release, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from gpt2rt_export.sources import OpenAICheckpoint

    folder = tmp_path / "model"
    write_hollow(folder, release)
    assert fault(INDEX, folder / INDEX, replace(release, known={}), folder) is None
    assert len(read_index(folder / INDEX)) == 4 + 12 * release.hparams.n_layer
    checkpoint = OpenAICheckpoint(folder, with_tokenizer=False)
    assert checkpoint.hparams == release.hparams
    last = f"model/h{release.hparams.n_layer - 1}/ln_2/g"
    np.testing.assert_array_equal(checkpoint.read(last), np.zeros(release.hparams.n_embd))


def test_reading_takes_the_memory_of_one_variable(tmp_path: Path) -> None:
    """Some variables of the largest model, in a process of its own; `make soak` reads all."""
    pytest.importorskip("tensorflow")
    pytest.importorskip("resource")
    release = catalog.RELEASES[-1]
    write_hollow(tmp_path / "model", release)
    names = [f"model/h{i}/mlp/{part}/w" for i in range(0, 48, 12) for part in ("c_fc", "c_proj")]
    script = Path(hollow.__file__)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "model", *names], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    largest = 4 * 1600 * 6400
    assert told["read"] == len(names) * largest
    assert told["memory"] < 2 * largest + 32e6
