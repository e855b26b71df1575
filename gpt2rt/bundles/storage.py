"""Bundles and checkpoints in the home directory: listed, measured and removed.

A bundle is named by its directory (`117M-int8`), a checkpoint is named `checkpoints/117M`, a bundle
that was fetched from a URL `fetched/...`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles import catalog
from gpt2rt.bundles.files import is_broken_link
from gpt2rt.bundles.manifest import MANIFEST
from gpt2rt.errors import UnknownModel

CHECKPOINTS = "checkpoints"
FETCHED = "fetched"


@dataclass(frozen=True, slots=True)
class Item:
    """A bundle or a checkpoint on disk, perhaps damaged."""

    name: str
    directory: Path

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return disk_used(self.directory)

    def remove(self) -> None:
        """Delete it: rename it in one step, then delete its files. Raises `OSError`."""
        if self.directory.is_symlink():
            self.directory.unlink()
            return
        hidden = self.directory.with_name(f".{self.directory.name}.removed")
        shutil.rmtree(hidden, ignore_errors=True)  # left by a removal that was interrupted
        self.directory.rename(hidden)
        shutil.rmtree(hidden)


def checkpoints() -> list[Item]:
    """All checkpoints, partly downloaded ones included. Raises `OSError`."""
    places = (path for path in _shown(catalog.home() / CHECKPOINTS) if os.path.isdir(path))
    return [Item(f"{CHECKPOINTS}/{path.name}", path) for path in places]


def fetched_directory() -> Path:
    """The directory of bundles that were fetched from URLs (`gpt2rt.bundles.fetching`)."""
    return catalog.home() / FETCHED


def fetched() -> list[Item]:
    """All bundles that were fetched from URLs. Raises `OSError`."""
    places = filter(claims, _shown(fetched_directory()))
    return [Item(f"{FETCHED}/{path.name}", path) for path in places]


def bundles() -> list[Item]:
    """All bundles, damaged ones included, but not the embedded demo. Raises `OSError`."""
    return [Item(path.name, path) for path in _shown(catalog.bundles_directory()) if claims(path)]


def claims(place: Path) -> bool:
    """Whether `place` seems to be a bundle, perhaps a damaged one.

    That is a directory with a file or link named as the manifest, a directory that may not be read,
    or a broken link.
    """
    try:
        os.lstat(place / MANIFEST)
    except PermissionError:
        return True
    except (OSError, ValueError):  # missing, or not a valid file name
        return is_broken_link(place)
    return True


def _shown(folder: Path) -> list[Path]:
    """The sorted entries of a folder, without hidden ones, which are unfinished exports."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def find(name: str) -> Item:
    """The bundle or checkpoint called `name`, by any name of its model.

    Raises `UnknownModel`.
    """
    items = [*bundles(), *fetched(), *checkpoints()]
    wanted = _canonical(name)
    for item in items:
        if item.name in (name, wanted):
            return item
    there = ", ".join(item.name for item in items) or "nothing"
    raise UnknownModel(f"{name}: no bundle or checkpoint of that name; there is {there}")


def total() -> int:
    """The size in bytes of all bundles and checkpoints, unfinished ones included."""
    places = catalog.bundles_directory(), fetched_directory(), catalog.home() / CHECKPOINTS
    return sum(map(disk_used, places))


def disk_used(directory: Path) -> int:
    """The size in bytes of all readable files below a directory; 0 if it does not exist.

    Links are not followed.
    """
    return sum(
        _bytes(os.path.join(folder, name))
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _bytes(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # removed meanwhile, or in a directory that may not be read
        return 0


def _canonical(name: str) -> str:
    """`124m-INT8` -> `117M-int8`, `checkpoints/124M` -> `checkpoints/117M`; others as they are."""
    kind, slash, rest = name.rpartition("/")
    model, hyphen, precision = rest.partition("-")
    try:
        return kind + slash + catalog.canonical(model) + hyphen + precision.lower()
    except UnknownModel:
        return name
