"""Scores of passages on a device: many are read side by side in a call, and only numbers travel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import ROWS, Port, cuda
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.forward import Forward
from gpt2rt.engine.cuda.scores import Ids
from gpt2rt.engine.cuda.shapes import finely_padded
from gpt2rt.engine.cuda.whole import WholeReader, beside, fill
from gpt2rt.engine.slots import Columns

Passages = Sequence[tuple[Sequence[int], int]]  # tokens, and the first that is scored


class PassageReader(WholeReader):
    """Reads whole passages on a device and scores their tokens there."""

    gives = "scores"

    @staticmethod
    def ports(hparams: HParams) -> Iterable[Port]:
        graph = cuda(hparams)
        return (*chain.from_iterable(graph.past), *graph.results)

    def score(self, passages: Passages, top: int, group: Ids | None) -> Columns:
        """The scores of each passage's tokens from its first on, with `top` alternatives.

        A passage has one token more than is read of it. Raises `BadLogits`, `OutOfMemory`.
        """
        found = self.together(lambda some: [self._score(some, top, group)], passages)
        return Columns.joined(found, top)

    def _score(self, passages: Passages, top: int, group: Ids | None) -> Columns:
        lengths = np.array([len(tokens) - 1 for tokens, _ in passages])
        firsts = np.array([first for _, first in passages])
        width = self.width(int(lengths.max()))
        tokens = beside([tokens for tokens, _ in passages], width + 1)
        places = np.arange(width)
        wanted = (firsts[:, None] <= places + 1) & (places < lengths[:, None])
        rows = np.flatnonzero(wanted)
        count = min(finely_padded(len(rows)), wanted.size)
        forward = self.call_of(
            (len(passages), width, count), lambda: self._forward(len(passages), width, count)
        )
        fill(forward.inputs, tokens[:, :-1])
        forward.inputs[ROWS.name][...] = 0
        forward.inputs[ROWS.name][: len(rows)] = rows
        forward.run()
        return forward.score(np.arange(len(rows)), tokens[:, 1:][wanted], top, group)

    def _forward(self, count: int, width: int, rows: int) -> Forward:
        device = self.device
        sizes = {"B": count, "S": width, "R": rows, "C": width}
        call = Call(device.session, device.memory, device.captures, sizes)
        return Forward(
            call, self.hparams, device.memory, device.tails, self.addresses, width, self.blocks
        )
