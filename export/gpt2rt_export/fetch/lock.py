"""Locks that let one process at a time work on a directory."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock


def lock_of(directory: Path) -> FileLock:
    """The lock for work on a directory, held on the hidden file `.NAME.lock` beside it.

    There, unlike in a shared folder for temporary files, only users who may write the directory can
    hold it. The file stays when the lock is released: if it were removed, one process could lock it
    while the next makes a new one.
    """
    place = directory.absolute()
    return FileLock(place.with_name(f".{place.name}.lock"))
