"""Huge pages for the weights that ONNX Runtime has packed (Linux).

A token reads all of them once, and a processor reads ahead no further than the end of a page: with
pages of 2 MB a step takes about a tenth less (bench/RESULTS.md). ONNX Runtime takes memory as
malloc gives it, so the kernel is asked about what has been mapped meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

HUGE = 1 << 21  # bytes of a page
LEAST = 8 * HUGE  # that are worth a thread
HUGEPAGE, COLLAPSE = 14, 25  # advice of madvise(2); the second since Linux 6.1
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MAPS = Path("/proc/self/maps")

SWITCH = "GPT2RT_HUGE_PAGES"  # 0: off

Region = tuple[int, int]  # addresses, the end excluded


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """What is mapped meanwhile moves to huge pages afterwards, beside what the caller does next.

    Contents and addresses stay; where the kernel declines, so do the pages.
    """
    before = anonymous()
    yield
    found = [page for region in new(anonymous(), before) if (page := aligned(region))]
    if sum(end - start for start, end in found) >= LEAST and wanted():
        Thread(target=ask, args=(found,), daemon=True).start()


def wanted() -> bool:
    """Whether the system has them, and neither its owner nor the user has turned them off."""
    try:
        return os.environ.get(SWITCH) != "0" and "[never]" not in SETTING.read_text()
    except OSError:
        return False


def anonymous() -> list[Region]:
    """The process's private memory without a file, in order; nothing off Linux."""
    if sys.platform != "linux":
        return []
    found = []
    for line in os.fsdecode(MAPS.read_bytes()).rstrip("\n").split("\n"):  # paths of any encoding
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, _, end = span.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def new(now: Sequence[Region], before: Sequence[Region]) -> list[Region]:
    """The parts of `now` that are in none of `before`; both in order, each without overlaps."""
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
    """The whole huge pages inside a region."""
    start, end = -(-region[0] // HUGE) * HUGE, region[1] // HUGE * HUGE
    return (start, end) if start < end else None


def ask(regions: Sequence[Region]) -> None:
    """A hint: where the kernel is too old or has no such page left, nothing changes."""
    libc = ctypes.CDLL(None)
    for start, end in regions:
        place = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
        for advice in (HUGEPAGE, COLLAPSE):
            libc.madvise(*place, advice)
