"""Batches of sequences that are read side by side, from any number of sequences."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")

GROUP = 4096  # tokens of a group, whose results are held


def groups_of_tokens(
    items: Iterable[T], length: Callable[[T], int], most: int = GROUP
) -> Iterator[list[T]]:
    """The items in groups of about `most` tokens, so that any number takes little memory.

    `length` gives the tokens of an item.
    """
    group: list[T] = []
    size = 0
    for item in items:
        group.append(item)
        size += length(item)
        if size >= most:
            yield group
            group, size = [], 0
    yield group


def batches(
    items: Iterable[T],
    length: Callable[[T], int],
    size: Callable[[], int],
    most: int | None,
    width: Callable[[int, int], int] = lambda length, longest: length,
) -> Iterator[list[T]]:
    """Consecutive items, at most `most`, of `size()` tokens in all; a longer item is alone.

    `width` gives the tokens that an item of a length takes beside a first one, the longest.
    """
    batch: list[T] = []
    left = size()
    for item in items:
        if batch and (width(length(item), length(batch[0])) > left or len(batch) == most):
            yield batch
            batch, left = [], size()
        batch.append(item)
        left -= width(length(item), length(batch[0]))
    if batch:
        yield batch


def in_order(found: Iterable[Iterable[tuple[int, T]]]) -> Iterator[T]:
    """Results with the numbers 0, 1, ... in that order, each as soon as it can be."""
    held: dict[int, T] = {}
    number = 0
    for some in found:
        held.update(some)
        while number in held:
            yield held.pop(number)
            number += 1


def ahead(jobs: Iterable[Callable[[], T]], pool: Executor, count: int) -> Iterator[T]:
    """The results of jobs, in their order, which `pool` runs up to `count` jobs ahead."""
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
