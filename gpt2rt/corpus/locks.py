"""A file that one process has for itself."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO


def locked(file: BinaryIO) -> bool:
    """Whether this process alone has the file now; the system gives it up when the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        with suppress(OSError):
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            return True
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
