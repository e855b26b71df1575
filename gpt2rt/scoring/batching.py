"""Batches of sequences of similar length, from any number of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

STEP = 8  # lengths are padded to a multiple of it
GROUP = 4096  # tokens of a group, within which batches are formed


def groups_of_tokens(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in groups of about `GROUP` tokens, so that any number takes little memory.

    `length` gives the tokens of an item.
    """
    group: list[T] = []
    size = 0
    for item in items:
        group.append(item)
        size += length(item)
        if size >= GROUP:
            yield group
            group, size = [], 0
    yield group


def batches(
    lengths: Sequence[int], n_ctx: int, rows: int, most: int
) -> Iterator[tuple[list[int], int]]:
    """Batches of sequences: their indices, and the width to which they are padded.

    A batch has at most `rows` positions and `most` sequences; a longer sequence is alone, unpadded.
    The width depends only on a sequence's own length, and so do the bits of its results.
    """
    by_width: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        width = length if length > rows else min(-(-length // STEP) * STEP, n_ctx)
        by_width.setdefault(width, []).append(number)
    for width, numbers in by_width.items():
        count = max(1, min(most, rows // width))
        for start in range(0, len(numbers), count):
            yield numbers[start : start + count], width
