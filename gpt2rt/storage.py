"""What lies in the home directory, what it weighs, and how it goes: bundles and checkpoints.

A bundle is called by its directory's name (`117M-int8`), a checkpoint `checkpoints/117M`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gpt2rt import catalog
from gpt2rt.bundle import MANIFEST
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
    """Every checkpoint that was downloaded, or began to be."""
    home = catalog.home() / CHECKPOINTS
    places = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
    shown = (path for path in places if not path.name.startswith("."))
    return [Item(f"{CHECKPOINTS}/{path.name}", path) for path in shown]


def bundles() -> list[Item]:
    """Every bundle, damaged ones too; not the demo that is embedded in the package."""
    home = catalog.bundles_directory()
    places = sorted(path.parent for path in home.glob(f"*/{MANIFEST}")) if home.is_dir() else []
    return [Item(path.name, path) for path in places if not path.name.startswith(".")]


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
    """Bytes of all files below a directory, 0 where there is none; links are not followed."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _canonical(name: str) -> str:
    """`124m-INT8` -> `117M-int8`, `checkpoints/124M` -> `checkpoints/117M`; others as they are."""
    kind, slash, rest = name.rpartition("/")
    model, hyphen, precision = rest.partition("-")
    try:
        return kind + slash + catalog.canonical(model) + hyphen + precision.lower()
    except UnknownModel:
        return name
