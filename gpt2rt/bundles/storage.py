"""What lies in the home directory, what it weighs, and how it goes: bundles and checkpoints.

A bundle is called by its directory's name (`117M-int8`), a checkpoint `checkpoints/117M`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import MANIFEST
from gpt2rt.errors import UnknownModel

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class Item:
    """A bundle or a checkpoint on disk, whole or damaged."""

    name: str
    directory: Path

    @property
    def bytes(self) -> int:
        return disk_used(self.directory)

    def remove(self) -> None:
        """Delete it. It is gone in one step, though its space comes free bit by bit."""
        if self.directory.is_symlink():
            self.directory.unlink()
            return
        hidden = self.directory.with_name(f".{self.directory.name}.removed")
        shutil.rmtree(hidden, ignore_errors=True)  # what a removal that was killed left
        self.directory.rename(hidden)
        shutil.rmtree(hidden)


def checkpoints() -> list[Item]:
    """Every checkpoint that was downloaded, or began to be. Raises `OSError`."""
    places = (path for path in _shown(catalog.home() / CHECKPOINTS) if os.path.isdir(path))
    return [Item(f"{CHECKPOINTS}/{path.name}", path) for path in places]


def bundles() -> list[Item]:
    """Every bundle, damaged ones too; not the demo that is embedded in the package. Raises
    `OSError`.
    """
    return [Item(path.name, path) for path in _shown(catalog.bundles_directory()) if claims(path)]


def claims(place: Path) -> bool:
    """Whether `place` is a bundle by what can be seen of it: a directory with a manifest, whatever
    that is, or one that nobody may look into; a link that leads nowhere.
    """
    try:
        os.lstat(place / MANIFEST)
    except PermissionError:
        return True
    except (OSError, ValueError):  # not there, or no name of a file
        return os.path.islink(place) and not os.path.exists(place)
    return True


def _shown(folder: Path) -> list[Path]:
    """What is in a folder, in order, less hidden names: exports at work, and what they left."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def find(name: str) -> Item:
    """The item of exactly that name, aliases of a model included. Raises `UnknownModel`."""
    items = [*bundles(), *checkpoints()]
    wanted = _canonical(name)
    for item in items:
        if item.name in (name, wanted):
            return item
    there = ", ".join(item.name for item in items) or "nothing"
    raise UnknownModel(f"{name}: no bundle or checkpoint of that name; there is {there}")


def total() -> int:
    """Bytes on disk of all that is kept in the home directory, leftovers included."""
    return disk_used(catalog.bundles_directory()) + disk_used(catalog.home() / CHECKPOINTS)


def disk_used(directory: Path) -> int:
    """Bytes of all files below a directory that can be seen, 0 where there is none; links are not
    followed.
    """
    return sum(
        _bytes(os.path.join(folder, name))
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _bytes(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # gone meanwhile, or in a directory that nobody may look into
        return 0


def _canonical(name: str) -> str:
    """`124m-INT8` -> `117M-int8`, `checkpoints/124M` -> `checkpoints/117M`; others as they are."""
    kind, slash, rest = name.rpartition("/")
    model, hyphen, precision = rest.partition("-")
    try:
        return kind + slash + catalog.canonical(model) + hyphen + precision.lower()
    except UnknownModel:
        return name
