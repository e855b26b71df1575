"""The interface between the engine and the graphs: slots with keys and values.

A slot stores the keys and values of one sequence; the engine knows which sequence is in which slot,
and its length. Any number of slots may share an ONNX Runtime session, which has no state of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.sampling.selection import Draw, Selected

Logits = NDArray[np.float32]
KeysValues = NDArray[np.floating[Any]]  # float32, on CUDA float16


class Slots(Protocol):
    """Slots for `count` sequences, and the calls that extend them.

    Logits that a method returns are valid until the next call.
    """

    count: int

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        """Append `tokens` to a slot with `length` positions.

        Returns logits float32 [R, n_vocab] after the tokens with the indices `rows` (None: the
        last).
        """

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits | Selected:
        """Append one token to each of the slots 0, 1, ..., which have `lengths` positions.

        Returns logits float32 [len(tokens), n_vocab]. A device returns only its `Selected` rows;
        there the next tokens are also drawn, by `draws`.
        """

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        """Append tokens int32 [B, S] to the slots 0 to B-1, which have `length` positions.

        `length` must be 0 or B must be 1. Returns logits float32 [R, n_vocab] after the tokens with
        the indices `rows` into B*S.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        """A copy of the keys and values of positions `start` to `end` (exclusive) of a slot.

        [n_layer, 2, n_head, end - start, width], the width being that of the graph's cache.
        """

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        """Write keys and values from `read` to a slot from position `start` on, where it ends."""
