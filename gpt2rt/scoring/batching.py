"""Which sequences the model reads side by side: some of like length, found a little ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

STEP = 8  # lengths are padded to a multiple of it
AHEAD = 4096  # tokens among whose sequences like lengths are looked for


def ahead(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in groups of some `AHEAD` tokens: any number of them takes little memory."""
    group: list[T] = []
    size = 0
    for item in items:
        group.append(item)
        size += length(item)
        if size >= AHEAD:
            yield group
            group, size = [], 0
    yield group


def side_by_side(
    lengths: Sequence[int], n_ctx: int, rows: int, most: int
) -> Iterator[tuple[list[int], int]]:
    """Sequences, by number, that share a call, and the width to which they are padded.

    A call has at most `rows` positions and `most` sequences; a longer sequence is alone, unpadded.
    The width depends on a sequence's own length only, and with it the arithmetic.
    """
    by_width: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        width = length if length > rows else min(-(-length // STEP) * STEP, n_ctx)
        by_width.setdefault(width, []).append(number)
    for width, numbers in by_width.items():
        count = max(1, min(most, rows // width))
        for start in range(0, len(numbers), count):
            yield numbers[start : start + count], width
