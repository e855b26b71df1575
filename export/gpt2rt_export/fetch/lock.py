"""One process at a time for a directory."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock


def lock_of(directory: Path) -> FileLock:
    """The lock for work on a directory: the hidden file `.NAME.lock` beside it.

    Whoever may take it may write there anyway, unlike in a folder for everyone's temporary files.
    The file stays when the lock is gone: removed, it could be locked by one process while the next
    makes a new one.
    """
    place = directory.absolute()
    return FileLock(place.with_name(f".{place.name}.lock"))
