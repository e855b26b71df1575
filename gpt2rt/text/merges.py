"""Byte-pair encoding: neighbours are joined by rank, the lowest first."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import pairwise

SHORT = 32  # symbols of a word up to which looking for the lowest rank anew is faster
NO_RANK = sys.maxsize


def merge(word: list[str], ranks: Mapping[str, int]) -> list[str]:
    """The symbols that are left of `word` when no pair of neighbours has a rank; `word` is used up.

    Equal to `bpe` of OpenAI's `encoder.py`.
    """
    return _merge_short(word, ranks) if len(word) <= SHORT else _merge_long(word, ranks)


def _merge_short(word: list[str], ranks: Mapping[str, int]) -> list[str]:
    """Join the pair of the lowest rank wherever it is, left to right, until no pair has a rank."""
    found = [ranks.get(f"{a} {b}", NO_RANK) for a, b in pairwise(word)]
    rank = min(found, default=NO_RANK)
    while rank != NO_RANK:
        i = found.index(rank)
        word[i] += word.pop(i + 1)
        del found[i]
        if i > 0:
            found[i - 1] = ranks.get(f"{word[i - 1]} {word[i]}", NO_RANK)
        if i < len(found):
            found[i] = ranks.get(f"{word[i]} {word[i + 1]}", NO_RANK)
        if rank not in found:
            rank = min(found, default=NO_RANK)
    return word


def _merge_long(word: list[str], ranks: Mapping[str, int]) -> list[str]:
    """The same in n log n: symbols keep their places, pairs are found by rank."""
    word.append("")  # the end; a symbol joined to the one before it is left empty, too
    before = list(range(-1, len(word) - 1))
    after = list(range(1, len(word) + 1))
    starts: dict[int, list[int]] = {}  # rank -> where such a pair starts, or started
    order: list[int] = []  # a heap of the ranks in `starts`

    def note(i: int, j: int) -> None:
        rank = ranks.get(f"{word[i]} {word[j]}")
        if rank in starts:
            starts[rank].append(i)
        elif rank is not None:
            starts[rank] = [i]
            heappush(order, rank)

    for i in range(len(word) - 1):
        note(i, i + 1)
    while order:
        rank = heappop(order)
        for i in sorted(starts.pop(rank)):
            j = after[i]
            if ranks.get(f"{word[i]} {word[j]}") == rank:
                word[i], word[j] = word[i] + word[j], ""
                after[i] = after[j]
                before[after[i]] = i
                note(before[i], i)
                note(i, after[i])
    return [symbol for symbol in word if symbol]
