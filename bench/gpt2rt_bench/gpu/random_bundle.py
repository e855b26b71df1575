"""Makes a bundle of random weights from its graphs, without what an export needs."""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import FileRecord, record
from gpt2rt.bundles.manifest import GRAPHS, MANIFEST, WEIGHTS, read_manifest
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary

POOL = 4_194_301  # random numbers, a prime, so that no two rows of a matrix are alike


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in the weights file: its name, NumPy's name of its type, and its bytes."""

    name: str
    dtype: str
    offset: int
    length: int


def fill(graphs: Path, directory: Path) -> Bundle:
    """Make the bundle `directory` from graphs and their manifest.

    The weights are float16 or float32, normal with GPT-2's initial deviation, 0.02, and gains are
    1. A variable that graphs store in different types has the same values in each.
    """
    directory.mkdir(parents=True)
    manifest = read_manifest(graphs / MANIFEST)
    stored: set[StoredTensor] = set()
    for name in (name for name in GRAPHS if name in manifest.files):
        shutil.copyfile(graphs / name, directory / name)
        stored |= set(_stored(graphs / name))
    write_vocabulary(directory, *synthetic_vocabulary(manifest.hparams.n_vocab))
    files = {path.name: record(path) for path in directory.iterdir()}
    ordered = sorted(stored, key=lambda tensor: tensor.offset)
    files[WEIGHTS] = _write(ordered, directory / WEIGHTS)
    made = replace(manifest, origin="random weights", files=dict(sorted(files.items())))
    (directory / MANIFEST).write_text(made.to_json(), encoding="utf-8")
    return Bundle.open(directory)


def _stored(graph: Path) -> Iterator[StoredTensor]:
    """The tensors of a graph that lie in the weights file."""
    for tensor in onnx.load(str(graph), load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
            yield StoredTensor(tensor.name, kind, int(place["offset"]), int(place["length"]))


def _write(tensors: list[StoredTensor], path: Path) -> FileRecord:
    """Write the weights file; the tensors are in the order of their offsets."""
    pool = np.random.default_rng(0).standard_normal(POOL, np.float32) * np.float32(0.02)
    halves = pool.astype(np.float16)
    values: dict[str, NDArray[Any]] = {
        "float16": halves,
        "float32": halves.astype(np.float32),
    }
    digest, end = hashlib.sha256(), 0
    with path.open("wb") as file:
        for tensor in tensors:
            file.write(padding := bytes(tensor.offset - end))
            digest.update(padding)
            for piece in _pieces(tensor, values[tensor.dtype]):
                file.write(piece.data)
                digest.update(piece.data)
            end = tensor.offset + tensor.length
    return FileRecord(end, digest.hexdigest())


def _pieces(tensor: StoredTensor, pool: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The values of a tensor: runs of the pool, from a place that its variable determines."""
    variable = tensor.name.removesuffix("/fp16")
    left = tensor.length // pool.itemsize
    if variable.endswith("/g"):
        yield np.ones(left, pool.dtype)
        return
    at = zlib.crc32(variable.encode()) % len(pool)
    while left:
        piece = pool[at : at + left]
        yield piece
        left, at = left - len(piece), 0
