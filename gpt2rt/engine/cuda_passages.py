"""Scores of passages on a device: many are read side by side in a call, and only numbers travel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.bundles.interface import POSITION, ROWS, SEQLENS, X, cuda
from gpt2rt.engine.cuda_call import Call
from gpt2rt.engine.cuda_forward import Forward
from gpt2rt.engine.cuda_memory import Block, size_of
from gpt2rt.engine.cuda_scores import Ids
from gpt2rt.engine.cuda_shapes import A_CALL, padded, power_of_two
from gpt2rt.engine.slots import Columns
from gpt2rt.errors import OutOfMemory

if TYPE_CHECKING:
    from gpt2rt.engine.cuda import Device

KEPT = 32  # calls that are kept; their shapes are few where passages come sorted by length


class PassageReader:
    """Reads whole passages on a device and scores their tokens there; nothing of them is kept.

    A call reads up to `budget` tokens, padding included. All calls share the memory of the largest.
    For one thread at a time.
    """

    def __init__(self, device: Device) -> None:
        self.budget = max(A_CALL, device.hparams.n_ctx)
        self._device, self._hparams = device, device.hparams
        self._forget()

    def _forget(self) -> None:
        """Release the memory on the device."""
        self._room = 0  # tokens
        self._blocks: dict[str, Block] = {}
        self._calls: dict[tuple[int, int, int], Forward] = {}

    def width(self, length: int) -> int:
        """The tokens that a passage of `length` takes in a call, where it is the longest."""
        return min(padded(length), self._hparams.n_ctx)

    def score(
        self, passages: Sequence[Sequence[int]], firsts: Sequence[int], top: int, group: Ids | None
    ) -> Columns:
        """The scores of each passage's tokens from its first on, with `top` alternatives.

        A passage has one token more than is read of it. Where the memory does not suffice, fewer
        are read side by side from then on. Raises `OutOfMemory` for one alone, `BadLogits`.
        """
        try:
            return self._score(passages, firsts, top, group)
        except OutOfMemory:
            self._forget()
            if len(passages) == 1:
                raise
        self.budget = max(self._hparams.n_ctx, self.budget // 2)
        half = len(passages) // 2
        parts = ((passages[:half], firsts[:half]), (passages[half:], firsts[half:]))
        return Columns.joined([self.score(*part, top, group) for part in parts], top)

    def _score(
        self, passages: Sequence[Sequence[int]], firsts: Sequence[int], top: int, group: Ids | None
    ) -> Columns:
        lengths = np.array([len(passage) - 1 for passage in passages])
        width = self.width(int(lengths.max()))
        tokens = np.zeros((len(passages), width + 1), np.int32)
        for row, passage in zip(tokens, passages, strict=True):
            row[: len(passage)] = passage
        places = np.arange(width)
        wanted = (np.array(firsts)[:, None] <= places + 1) & (places < lengths[:, None])
        rows = np.flatnonzero(wanted)
        forward = self._call(len(passages), width, len(rows))
        forward.inputs[X.name][...] = tokens[:, :-1]
        forward.inputs[POSITION.name][...] = places
        forward.inputs[ROWS.name][...] = 0
        forward.inputs[ROWS.name][: len(rows)] = rows
        forward.inputs[SEQLENS.name][...] = width - 1
        forward.run()
        return forward.score(np.arange(len(rows)), tokens[:, 1:][wanted], top, group)

    def _call(self, count: int, width: int, rows: int) -> Forward:
        """A call for passages from their beginnings, with room for that many rows of logits."""
        self._grow(count * width)
        rows = min(padded(rows), count * width)
        key = (count, width, rows)
        if key not in self._calls:
            if len(self._calls) == KEPT:
                self._calls.clear()
            device = self._device
            sizes = {"B": count, "S": width, "R": rows, "C": width}
            call = Call(device.session, device.memory, device.captures, sizes)
            addresses = {name: block.address for name, block in self._blocks.items()}
            memory, tails = device.memory, device.tails
            made = Forward(call, self._hparams, memory, tails, addresses, width, self._blocks)
            self._calls[key] = made
        return self._calls[key]

    def _grow(self, tokens: int) -> None:
        """Have memory for the keys, values and logits of so many tokens."""
        if tokens <= self._room:
            return
        self._forget()
        room, graph = power_of_two(tokens), cuda(self._hparams)
        for port in (*chain.from_iterable(graph.past), *graph.results):
            size = size_of(port, {"B": 1, "C": room, "R": room})
            self._blocks[port.name] = self._device.memory.allocate(size)
        self._room = room
