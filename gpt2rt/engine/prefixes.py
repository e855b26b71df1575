"""A cache of keys and values of prompts' prefixes, so that common prefixes are computed once.

A prompt is split into blocks of a few tokens. A block is identified by its own tokens and the
blocks before it, so it serves all prompts with the same beginning. The kernels give the same bits
wherever a prompt is split, so texts are the same with and without the cache.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from weakref import WeakSet

from gpt2rt.engine.slots import KeysValues

BLOCK = 32  # tokens

_Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PrefixStatistics:
    """Counts so far: prompts and tokens looked up, tokens found, bytes in use, blocks evicted."""

    prompts: int
    tokens: int
    found: int
    bytes: int
    evicted: int


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    number: int
    kv: KeysValues  # [n_layer, 2, n_head, BLOCK, width]


_caches: WeakSet[PrefixCache] = WeakSet()


def _after_fork() -> None:
    for cache in _caches:
        cache.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class PrefixCache:
    """A cache of at most `capacity` bytes of blocks that evicts the least recently used ones.

    It may be shared by threads.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.reset()
        _caches.add(self)

    def reset(self) -> None:
        """Empty the cache. The lock is new, since in a forked child the old one may stay locked."""
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._bytes = self._prompts = self._tokens = self._found = self._evicted = 0

    @property
    def statistics(self) -> PrefixStatistics:
        """Counts since the cache was created or emptied."""
        with self._lock:
            return PrefixStatistics(
                self._prompts, self._tokens, self._found, self._bytes, self._evicted
            )

    def find(self, tokens: Sequence[int]) -> list[KeysValues]:
        """The blocks at the start of `tokens`, each [n_layer, 2, n_head, BLOCK, width].

        The last token is in none of them: it has to be read for its logits.
        """
        with self._lock:
            found = list(self._known(tokens[:-1]))
            self._prompts += 1
            self._tokens += len(tokens)
            self._found += len(found) * BLOCK
            for key, _ in reversed(found):
                self._blocks.move_to_end(key)
        return [block.kv for _, block in found]

    def knows(self, tokens: Sequence[int]) -> bool:
        """Whether the first block of `tokens` is stored; it does not count as used."""
        with self._lock:
            return next(self._known(tokens), None) is not None

    def _known(self, tokens: Sequence[int]) -> Iterator[tuple[_Key, _Block]]:
        parent = 0
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (parent, tuple(tokens[start : start + BLOCK]))
            block = self._blocks.get(key)
            if block is None:
                return
            yield key, block
            parent = block.number

    def store(self, tokens: Sequence[int], read: Callable[[int, int], KeysValues]) -> None:
        """Store the blocks of `tokens`, or the first of them if all exceed the capacity.

        `read(start, end)` copies the keys and values of these positions.
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
            for key, _ in reversed(path):  # a block must be evicted after those that follow it
                self._blocks.move_to_end(key)
            while self._bytes > self.capacity:
                _, oldest = self._blocks.popitem(last=False)
                self._bytes -= oldest.kv.nbytes
                self._evicted += 1
