"""Bytes of files as they are read and written, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, BinaryIO, cast

from gpt2rt.bundles.paths import path_text
from gpt2rt.corpus.names import STDIN, STDIN_NAME
from gpt2rt.errors import BadData, missing_extra, reason


@dataclass(slots=True)
class BytesRead:
    """How many bytes of the files, as they lie on the disk, were read so far."""

    count: int = 0


class MeteredFile(io.FileIO):
    """A file that counts what is read of it."""

    def __init__(self, path: str, meter: BytesRead) -> None:
        super().__init__(path, "rb")
        self._meter = meter

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._meter.count += count or 0
        return count


def named(path: str) -> str:
    """What messages and results call a file."""
    return STDIN_NAME if path == STDIN else path_text(path)


@contextmanager
def reading(path: str, compression: str, meter: BytesRead) -> Iterator[IO[bytes]]:
    """The content of a file, or of standard input, decompressed as it is read.

    Raises `BadData` for a file that cannot be read, whose compression is damaged too.
    """
    try:
        if path == STDIN:
            yield sys.stdin.buffer
            return
        with io.BufferedReader(MeteredFile(path, meter), 1 << 16) as raw:
            yield _decompressed(raw, compression)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadData(f"{named(path)}: {reason(error)}") from None


def _decompressed(raw: Any, compression: str) -> IO[bytes]:
    if compression == "gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if compression == "bz2":
        return cast(IO[bytes], bz2.BZ2File(raw))
    if compression == "xz":
        return cast(IO[bytes], lzma.LZMAFile(raw))
    if compression == "zst":
        pa = arrow(".zst")
        stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
        return cast(IO[bytes], io.BufferedReader(stream, 1 << 16))
    return cast(IO[bytes], raw)


@contextmanager
def compressing(file: BinaryIO, compression: str) -> Iterator[IO[bytes]]:
    """What is written goes compressed into `file`; the same bytes give the same file."""
    if compression == "gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
            yield cast(IO[bytes], stream)
    elif compression == "bz2":
        with bz2.BZ2File(file, "wb") as stream:
            yield stream
    elif compression == "xz":
        with lzma.LZMAFile(file, "wb") as stream:
            yield stream
    elif compression == "zst":
        with arrow(".zst").CompressedOutputStream(sink(file), "zstd") as stream:
            yield stream
    else:
        yield file


class OpenSink(io.RawIOBase):
    """A file for a writer that closes what it writes to; this one stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


def sink(file: BinaryIO) -> Any:
    """An open file as Arrow writes to it. Raises `MissingExtra`."""
    return arrow(".parquet").PythonFile(OpenSink(file), "w")


def arrow(what: str) -> Any:
    """The library pyarrow. Raises `MissingExtra` saying that `what` needs it."""
    return _module("pyarrow", what)


def parquet() -> Any:
    """The module `pyarrow.parquet`. Raises `MissingExtra`."""
    return _module("pyarrow.parquet", ".parquet")


def _module(name: str, what: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise missing_extra("files", f"{what} files need pyarrow") from None


def exists(path: str | Path) -> bool:
    """Whether there is something at `path`, whatever its name has in it."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
