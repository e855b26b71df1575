"""The interface between the engine and the graphs: slots with keys and values.

A slot stores the keys and values of one sequence; the engine knows which sequence is in which slot,
and its length. Any number of slots may share an ONNX Runtime session, which has no state of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.sampling.selection import Draw, Selected

Logits = NDArray[np.float32]
KeysValues = NDArray[np.floating[Any]]  # float16 or float32


@dataclass(frozen=True, slots=True)
class Part:
    """New tokens of one slot in a step, which follow its first `start` positions.

    `wanted`: after how many of the last tokens logits are returned (0, 1, ... len(tokens)).
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: int = 1


class Slots(Protocol):
    """Slots for `count` sequences, and the step that extends them."""

    count: int

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits | Selected:
        """Append the tokens of all parts, each of another slot.

        Returns logits float32 [R, n_vocab], valid until the next call: the wanted rows, part after
        part. A device that draws returns `Selected` when every part is one token of the slots 0, 1,
        ...; `draws` are for these rows.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        """A copy of the keys and values of positions `start` to `end` (exclusive) of a slot.

        [n_layer, 2, n_head, end - start, width], the width being that of the graph's cache.
        """

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        """Write keys and values from `read` to a slot from position `start` on, where it ends."""
