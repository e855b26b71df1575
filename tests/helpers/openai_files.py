"""A small model as OpenAI would have released it, written without TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import google_crc32c

from gpt2rt import HParams
from gpt2rt.bundles.catalog import (
    DATA,
    ENCODER,
    HPARAMS,
    INDEX,
    MERGES,
    META,
    STATE,
    KnownFile,
    Release,
)
from gpt2rt_export.fetch.tensor_bundle import FLOAT32, MAGIC, mask
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary
from models import LargerWeights

SHAPE = HParams(n_vocab=300, n_ctx=8, n_embd=8, n_head=2, n_layer=2)
ENTRIES = 8  # of a block of the index


def write_release(directory: Path, hparams: HParams = SHAPE, factor: float = 6.0) -> Release:
    """Every file of a released model; returns what the catalogue would say of it."""
    directory.mkdir(parents=True)
    (directory / STATE).write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )
    (directory / HPARAMS).write_text(json.dumps(hparams.as_dict()))
    (directory / META).write_bytes(_field(1, b"a graph"))
    write_vocabulary(directory, *synthetic_vocabulary(hparams.n_vocab))
    weights = LargerWeights(hparams, 3, factor)
    checksums = {}
    with (directory / DATA).open("wb") as data:
        for name in sorted(hparams.variables()):
            values = weights.read(name).tobytes()
            data.write(values)
            checksums[name] = google_crc32c.value(values)
    write_index(directory / INDEX, hparams.variables(), checksums)
    known = {name: _known(directory / name) for name in (ENCODER, MERGES)}
    return Release("117M", "124M", hparams, (directory / DATA).stat().st_size, known)


def _known(path: Path) -> KnownFile:
    data = path.read_bytes()
    return KnownFile(len(data), hashlib.sha256(data).hexdigest())


def write_index(
    path: Path, shapes: Mapping[str, tuple[int, ...]], checksums: Mapping[str, int]
) -> None:
    """The index of float32 variables that lie one after the other, in the order of their names."""
    entries = [(b"", _field(1, 1) + _field(3, _field(1, 1)))]
    offset = 0
    for name in sorted(shapes):
        dimensions = b"".join(_field(2, _field(1, size)) for size in shapes[name])
        bytes_ = 4
        for size in shapes[name]:
            bytes_ *= size
        crc = _varint(6 << 3 | 5) + mask(checksums[name]).to_bytes(4, "little")
        entry = _field(1, FLOAT32) + _field(2, dimensions) + _field(4, offset) + _field(5, bytes_)
        entries.append((name.encode(), entry + crc))
        offset += bytes_
    table, handles = b"", []
    for start in range(0, len(entries), ENTRIES):
        part = entries[start : start + ENTRIES]
        table, handle = _append(table, part)
        handles.append((part[-1][0], handle))
    table, meta = _append(table, [])
    table, index = _append(table, handles)
    footer = (meta + index).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")
    path.write_bytes(table + footer)


def _append(table: bytes, entries: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """The table with one block more, and where that lies. Every key begins anew: no prefixes."""
    block, restarts = b"", []
    for key, value in entries:
        restarts.append(len(block))
        block += _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value
    numbers = [*(restarts or [0]), len(restarts) or 1]
    block += b"".join(number.to_bytes(4, "little") for number in numbers)
    checksum = mask(google_crc32c.value(block + b"\0")).to_bytes(4, "little")
    return table + block + b"\0" + checksum, _varint(len(table)) + _varint(len(block))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
