"""Keys and values of beginnings that prompts share: read once, used again.

A prompt is cut into blocks of a few tokens; a block is known by the blocks before it and its own
tokens, so that what was computed for one prompt serves every prompt that begins alike. Attention
over several tokens gives the same bits wherever a prompt is cut (a test holds it), so a text is the
same with and without the cache; only a last token alone would go through another kernel, hence at
least two tokens of a prompt are always read.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

BLOCK = 32  # tokens
READ_ANEW = 2  # tokens of a prompt that are always computed

KeysValues = NDArray[np.float32]  # [n_layer, 2, n_head, BLOCK, kv_width]
_Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PrefixStatistics:
    """Prompts and tokens looked up, tokens found, bytes held and blocks given up so far."""

    prompts: int
    tokens: int
    found: int
    bytes: int
    evicted: int


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    number: int
    kv: KeysValues


_caches: WeakSet[PrefixCache] = WeakSet()


def _after_fork() -> None:
    for cache in _caches:
        cache.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class PrefixCache:
    """At most `capacity` bytes of blocks, the least recently used given up first.

    May be shared by threads.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.reset()
        _caches.add(self)

    def reset(self) -> None:
        """Forget all, under a new lock: in a forked child the old one may be held for ever."""
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._bytes = self._prompts = self._tokens = self._found = self._evicted = 0

    @property
    def statistics(self) -> PrefixStatistics:
        with self._lock:
            return PrefixStatistics(
                self._prompts, self._tokens, self._found, self._bytes, self._evicted
            )

    def find(self, tokens: Sequence[int]) -> list[KeysValues]:
        """The blocks that `tokens` begin with, as many as there are."""
        with self._lock:
            found = list(self._known(tokens[: max(0, len(tokens) - READ_ANEW)]))
            self._prompts += 1
            self._tokens += len(tokens)
            self._found += len(found) * BLOCK
            for key, _ in reversed(found):
                self._blocks.move_to_end(key)
        return [block.kv for _, block in found]

    def _known(self, tokens: Sequence[int]) -> Iterator[tuple[_Key, _Block]]:
        parent = 0
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (parent, tuple(tokens[start : start + BLOCK]))
            block = self._blocks.get(key)
            if block is None:
                return
            yield key, block
            parent = block.number

    def keep(self, tokens: Sequence[int], read: Callable[[int, int], KeysValues]) -> None:
        """Remember what `tokens` begin with; `read` copies keys and values from a start to an end.

        Of a prompt that is larger than the cache, the beginning.
        """
        with self._lock:
            path = list(self._known(tokens))
            parent = path[-1][1].number if path else 0
            for start in range(len(path) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
                block = _Block(next(self._numbers), read(start, start + BLOCK))
                if sum(known.kv.nbytes for _, known in path) + block.kv.nbytes > self.capacity:
                    break
                key = (parent, tuple(tokens[start : start + BLOCK]))
                self._blocks[key] = block
                self._bytes += block.kv.nbytes
                path.append((key, block))
                parent = block.number
            for key, _ in reversed(path):  # so that a block outlives those that build on it
                self._blocks.move_to_end(key)
            while self._bytes > self.capacity:
                _, oldest = self._blocks.popitem(last=False)
                self._bytes -= oldest.kv.nbytes
                self._evicted += 1
