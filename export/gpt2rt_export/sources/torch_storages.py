"""Opens the two containers of `torch.save`: a zip, and before PyTorch 1.6 a row of pickles.

Both have a pickle that describes tensors (`pickles.py` reads it), and the bytes of their storages.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Protocol

from gpt2rt_export.sources import pickles
from gpt2rt_export.sources.pickles import PickleRefused, Storage

LARGEST_PICKLE = 4 << 20  # bytes of names and numbers; those of 1558M take 0.2 MB
PICKLE = b"\x80"  # how a pickle of protocol 2 and later begins, and no zip
MAGIC = 0x1950A86A20F9469CFC6C  # PyTorch's, the first pickle of five
PROTOCOL = 1001
COUNT = 8  # bytes of the number that stands before a storage


class Container(Protocol):
    """An open file of `torch.save`. `read` raises the errors of zipfile and the system."""

    @property
    def body(self) -> object:
        """What was saved: plain data and `View`s of storages."""

    def read(self, storage: Storage) -> bytes:
        """A storage's bytes; fewer than its numbers take where the file is cut short."""


def open_container(path: Path) -> Container:
    """Open a file of either kind.

    Raises `PickleRefused` for a pickle that asks for more than tensors, `zipfile.BadZipFile` for a
    file of another kind.
    """
    with path.open("rb") as file:
        old = file.read(1) == PICKLE
    return PickleRow(path) if old else Zip(path)


class Zip:
    """The zip of PyTorch 1.6 and later; crc32s are checked as bytes are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if len(names) != 1:
                raise PickleRefused("holds no data.pkl, so it is no torch.save file")
            self._root = names[0].removesuffix("data.pkl")
            if archive.getinfo(names[0]).file_size > LARGEST_PICKLE:
                raise PickleRefused("its pickle is larger than any GPT-2's")
            with archive.open(names[0]) as file:
                self.body = pickles.load(file)

    def read(self, storage: Storage) -> bytes:
        with zipfile.ZipFile(self._path) as archive:
            return archive.read(f"{self._root}data/{storage.key}")


class PickleRow:
    """The file of PyTorch before 1.6: five pickles, then each storage after its count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            start = io.BytesIO(file.read(LARGEST_PICKLE))
        if pickles.load(start) != MAGIC or pickles.load(start) != PROTOCOL:
            raise PickleRefused("a pickle, but none of torch.save")
        system = pickles.load(start)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise PickleRefused("written by a machine of another byte order")
        storages: dict[str, Storage] = {}
        self.body = pickles.load(start, storages)
        keys = _keys(pickles.load(start))
        self._places = _places(path, start.tell(), keys, storages)

    def read(self, storage: Storage) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._places[storage.key])
            return file.read(storage.numbers * storage.size)


def _keys(listed: object) -> list[str]:
    if not isinstance(listed, list) or not all(type(key) is str for key in listed):
        raise PickleRefused("a damaged file (no list of its storages)")
    return listed


def _places(path: Path, at: int, keys: list[str], storages: dict[str, Storage]) -> dict[str, int]:
    """Where each storage's bytes begin in the file; the first one's count is at byte `at`."""
    if sorted(keys) != sorted(storages):
        raise PickleRefused("a damaged file (its storages are not those of its tensors)")
    places = {}
    with path.open("rb") as file:
        for key in keys:
            file.seek(at)
            count = file.read(COUNT)
            if len(count) == COUNT and int.from_bytes(count, "little") != storages[key].numbers:
                raise PickleRefused(
                    "a damaged file (a storage of another size than its tensors say)"
                )
            places[key] = at + COUNT
            at += COUNT + storages[key].numbers * storages[key].size
    if at > path.stat().st_size:
        raise PickleRefused("a file that is cut short")
    return places
