"""Reads the index of a TensorFlow checkpoint: where each variable is, and its checksum.

TensorFlow's own reader does not give places and checksums. The file is a LevelDB
table (github.com/google/leveldb, doc/table_format.md) from variable names to `BundleEntryProto`s
(tensorflow/core/protobuf/tensor_bundle.proto); the entry without a name is a `BundleHeaderProto`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google_crc32c import value as crc32c

from gpt2rt.bundles.protobuf import fields, take, varint
from gpt2rt.errors import BadCheckpoint

FLOAT32 = 1  # TensorFlow's DT_FLOAT
MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes: two handles, padding, the magic number
TRAILER = 5  # bytes after a block: how it is compressed, its masked crc32c


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in the index. `crc32c` is that of its bytes, masked as LevelDB does."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    bytes: int
    crc32c: int

    @property
    def fits(self) -> bool:
        """Whether it is float32 and as long as its shape says."""
        return self.dtype == FLOAT32 and self.bytes == 4 * math.prod(self.shape)


def mask(crc: int) -> int:
    """A crc32c in the form that LevelDB and TensorFlow store it in (`table_format.md`)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_index(path: Path) -> dict[str, Variable]:
    """Every variable of the index file `path`, by name. Raises `BadCheckpoint` if it is damaged."""
    try:
        data = path.read_bytes()
        entries = dict(_table(data))
        header = dict(fields(entries.pop(b"")))
        if header.get(2, 0) != 0:
            raise ValueError("big-endian weights")
        return {name.decode(): _variable(entry) for name, entry in entries.items()}
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{path}: not the index of a checkpoint ({error})") from None


def _variable(entry: bytes) -> Variable:
    found = dict(fields(entry))
    dimensions = [dict(fields(_bytes(v))) for n, v in fields(_bytes(found.get(2, b""))) if n == 2]
    numbers = [found.get(number, 0) for number in (1, 3, 4, 5, 6)]
    dtype, shard, offset, size, crc = (int(number) for number in numbers)
    shape = tuple(int(dimension.get(1, 0)) for dimension in dimensions)
    return Variable(dtype, shape, shard, offset, size, crc)


def _bytes(found: int | bytes) -> bytes:
    if isinstance(found, bytes):
        return found
    raise ValueError("a number where a message was expected")


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    footer = data[-FOOTER:]
    if len(footer) < FOOTER or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("its last bytes are not those of a table")
    start, length, at = _handle(footer, 0)
    if list(_block(data, start, length)):
        raise ValueError("its meta-index, for filters, holds something")
    start, length, at = _handle(footer, at)
    if any(footer[at:-8]):
        raise ValueError("its last bytes are not those of a table")
    for _, value in _block(data, start, length):
        start, length, _ = _handle(value, 0)
        yield from _block(data, start, length)


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Start and length of a block, and the byte after the handle."""
    start, at = varint(data, at)
    length, at = varint(data, at)
    return start, length, at


def _block(data: bytes, start: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key shares a prefix with the one before."""
    block = take(data, start, length + TRAILER)
    stored = int.from_bytes(block[-4:], "little")
    if mask(crc32c(block[:-4])) != stored:
        raise ValueError(f"the block at byte {start} has another checksum")
    if block[length] != 0:
        raise ValueError(f"the block at byte {start} is compressed")
    restarts = int.from_bytes(take(block, length - 4, 4), "little")
    end = length - 4 - 4 * restarts
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        key = key[:shared] + take(block, at, own)
        yield key, take(block, at + own, size)
        at += own + size
