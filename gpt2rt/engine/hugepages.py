"""Moves the weights that ONNX Runtime has packed to huge pages (Linux).

Every decode step reads all weights, and a processor prefetches only to the end of a page: with
pages of 2 MB a step takes about 10 % less time (bench/HISTORY.md). ONNX Runtime allocates by
malloc, so the memory to move is what was mapped while it opened a session.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

HUGE = 1 << 21  # bytes of a huge page
LEAST = 8 * HUGE  # fewer bytes are not worth a thread
HUGEPAGE, COLLAPSE = 14, 25  # advice of madvise(2); the second since Linux 6.1
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MAPS = Path("/proc/self/maps")

SWITCH = "GPT2RT_HUGE_PAGES"  # 0: off

Region = tuple[int, int]  # addresses: start, end (exclusive)


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """A context after which memory mapped within it moves to huge pages, in a thread.

    Contents and addresses stay the same. It is a hint: the kernel may leave the pages as they are.
    """
    before = anonymous_regions()
    yield
    found = [
        page for region in new_regions(anonymous_regions(), before) if (page := aligned(region))
    ]
    if sum(end - start for start, end in found) >= LEAST and enabled():
        Thread(target=advise, args=(found,), daemon=True).start()


def enabled() -> bool:
    """Whether the system has huge pages, and neither it nor the user has turned them off."""
    try:
        return os.environ.get(SWITCH) != "0" and "[never]" not in SETTING.read_text()
    except OSError:
        return False


def anonymous_regions() -> list[Region]:
    """The private memory of the process without a file, by address; [] except on Linux."""
    if sys.platform != "linux":
        return []
    found = []
    for line in (
        os.fsdecode(MAPS.read_bytes()).rstrip("\n").split("\n")
    ):  # file names may have any encoding
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, _, end = span.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def new_regions(now: Sequence[Region], before: Sequence[Region]) -> list[Region]:
    """The parts of `now` that are not in `before`; both are sorted, without overlaps."""
    found = []
    for start, end in now:
        for low, high in before:
            if high > start and low < end:
                if low > start:
                    found.append((start, low))
                start = max(start, high)
        if start < end:
            found.append((start, end))
    return found


def aligned(region: Region) -> Region | None:
    """The part of a region that consists of whole huge pages; None: there is none."""
    start, end = -(-region[0] // HUGE) * HUGE, region[1] // HUGE * HUGE
    return (start, end) if start < end else None


def advise(regions: Sequence[Region]) -> None:
    """Ask the kernel to move regions to huge pages; it may ignore that."""
    libc = ctypes.CDLL(None)
    for start, end in regions:
        place = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
        for advice in (HUGEPAGE, COLLAPSE):
            libc.madvise(*place, advice)
