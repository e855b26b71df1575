"""The sha256 of large files, remembered from one process to the next while a file stays as it is.

`checked.json` in the home directory has a `Look` at each file and the sha256 that it had. Whatever
is wrong with these notes, the file is hashed. They guard against accidents, as the manifest does
beside the weights. Who can write them can hide damage to a file, but cannot change what is in it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from gpt2rt.bundles import files
from gpt2rt.bundles.files import FileRecord
from gpt2rt.bundles.notes import Notes

NOTES = Notes("checked.json")
LEAST = 1 << 24  # bytes; smaller files are hashed in 10 ms
SETTLED_NS = 2_000_000_000  # times of files have steps of up to 2 s (FAT)


@dataclass(frozen=True, slots=True)
class Look:
    """What tells that a file is the same and was not written to, times in nanoseconds.

    Anyone may set `mtime_ns`. `ctime_ns` is set by the system with every change (on Windows it is
    the time of creation).
    """

    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def at(cls, path: Path) -> Look:
        """Look at a file. Raises `OSError`."""
        found = path.stat()
        times = found.st_mtime_ns, found.st_ctime_ns
        return cls(found.st_size, *times, found.st_ino, found.st_dev)

    def settled(self, now: int) -> bool:
        """Whether a change after `now` would show in the times, however coarse their steps."""
        return max(self.mtime_ns, self.ctime_ns) + SETTLED_NS <= now


def sha256(path: Path, wanted: FileRecord) -> str:
    """The sha256 of a file: that of `wanted` if it was found before in what is still the same file.

    Otherwise, and if it has fewer than `LEAST` bytes, the file is hashed. Raises `BadBundle`.
    """
    if wanted.bytes < LEAST:
        return files.sha256(path, wanted.bytes)
    name = str(path.absolute())
    try:
        before, now = Look.at(path), time.time_ns()
    except OSError:
        return files.sha256(path, wanted.bytes)  # which tells what is wrong
    note = [*astuple(before), wanted.sha256]
    if NOTES.find(name) == note:
        return wanted.sha256
    found = files.sha256(path, wanted.bytes)
    with suppress(OSError):  # the file is gone, or the home is read-only: hashed again next time
        if found == wanted.sha256 and before.settled(now) and Look.at(path) == before:
            NOTES.write(name, note)
    return found
