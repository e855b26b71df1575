"""Batches of sequences that are read side by side, from any number of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

GROUP = 4096  # tokens of a group, whose results are held


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
    items: Iterable[T], length: Callable[[T], int], size: Callable[[], int], most: int
) -> Iterator[list[T]]:
    """Consecutive items, at most `most`, of `size()` tokens in all; a longer item is alone."""
    batch: list[T] = []
    left = size()
    for item in items:
        if batch and (length(item) > left or len(batch) == most):
            yield batch
            batch, left = [], size()
        batch.append(item)
        left -= length(item)
    if batch:
        yield batch
