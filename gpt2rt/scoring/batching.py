"""Batches of sequences that are read side by side, from any number of sequences."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import chain
from typing import Protocol, TypeVar

T = TypeVar("T")


class BatchReader(Protocol):
    """Reads batches of sequences side by side.

    `window` is how many tokens should be sorted by length (0: it does not need that), `most`
    the most sequences in a batch by default (None: any number).
    """

    window: int
    most: int | None

    def size(self) -> int:
        """The most tokens of a batch now; a longer sequence is alone."""

    def width(self, length: int, longest: int) -> int:
        """The tokens that a sequence of `length` takes beside a longest one."""

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """The results of jobs that read, in their order."""


def cut(
    items: Iterable[T], length: Callable[[T], int], reader: BatchReader, most: int | None
) -> Iterator[list[T]]:
    """The items in batches for a reader, of at most `most`, which may change their order."""
    windows: Iterable[Iterable[T]] = [items]
    if reader.window:
        groups = groups_of_tokens(items, length, reader.window)
        windows = (sorted(group, key=length, reverse=True) for group in groups)
    return chain.from_iterable(
        batches(window, length, reader.size, most, reader.width) for window in windows
    )


def groups_of_tokens(
    items: Iterable[T], length: Callable[[T], int], most: int
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
    width: Callable[[int, int], int],
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
