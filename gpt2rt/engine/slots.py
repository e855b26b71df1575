"""Places for sequences: what the engine asks of a graph, whichever kind it is.

A slot is a place for one sequence. Who sits where, and how long each sequence is, the engine knows.
Any number of slots may share one ONNX Runtime session, which holds the weights and no state.
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
    """What the engine asks of a graph."""

    count: int

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        """Append `tokens` to the `length` positions of `slot`.

        Returns logits float32 [R, n_vocab] after each of the tokens `rows` (indices into `tokens`;
        None: the last), good until the next call.
        """

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits | Selected:
        """One more token for each of the slots 0, 1, ..., which hold `lengths` positions.

        Returns logits float32 [len(tokens), n_vocab], good until the next call; from a device only
        what was selected there, where tokens are also drawn by `draws`.
        """

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        """Tokens [B,S] for the slots 0 to B-1, which hold `length` positions: none, or B is 1.

        Returns logits float32 [R, n_vocab] after each of the tokens `rows` (indices into B*S), good
        until the next call.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot become those of another."""

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        """A copy of the keys and values of some positions of a slot, as `write` takes it."""

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        """Make `kv` the keys and values from position `start` on, after which the slot ends."""
