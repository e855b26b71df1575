"""Regular files of a bundle: read whole or hashed, never a pipe, a device or more than expected."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from gpt2rt.errors import BadBundle

CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The size in bytes and the hexadecimal sha256 that a file of a bundle must have."""

    bytes: int
    sha256: str


class NotReadable(OSError):
    """A file that is not read: no regular one, or larger than expected. `strerror` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.filename, self.strerror = str(path), reason


def is_broken_link(path: Path) -> bool:
    """Whether `path` is a link to what is not there, or to itself."""
    return os.path.islink(path) and not os.path.exists(path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading. Raises `OSError` for anything else.

    The kind of file is checked before it is opened, since opening a pipe would wait for a writer,
    and again afterwards, since the file may have been replaced in between.
    """
    _check_regular(path.stat().st_mode, path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def _check_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise NotReadable(path, "no regular file")


def file_size(path: Path) -> int:
    """The size of a file in bytes. Raises `BadBundle` where there is no regular file."""
    try:
        found = path.stat()
        _check_regular(found.st_mode, path)
    except OSError as error:
        raise BadBundle(f"{path}: {error.strerror}; export again") from None
    return found.st_size


def read_small(path: Path, most: int) -> bytes:
    """The content of a regular file. Raises `OSError`, also if it has more than `most` bytes."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise NotReadable(path, f"more than {most:,} bytes")
    return data


def sha256(path: Path, most: int | None = None) -> str:
    """The hexadecimal sha256 of a regular file.

    Raises `BadBundle` if it cannot be read or has more than `most` bytes; reading stops there.
    """
    digest, done = hashlib.sha256(), 0
    try:
        with open_regular(path) as file:
            while part := file.read(CHUNK):
                digest.update(part)
                done += len(part)
                if most is not None and done > most:
                    raise NotReadable(path, f"more than the {most:,} bytes of the manifest")
    except OSError as error:
        raise BadBundle(f"{path}: {error.strerror}; export again") from None
    return digest.hexdigest()


def record(path: Path) -> FileRecord:
    """Measure a file: its size and sha256 as they are now. Raises `BadBundle`."""
    return FileRecord(file_size(path), sha256(path))
