"""The interface between the engine and the graphs: slots with keys and values.

A slot stores the keys and values of one sequence; the engine knows which sequence is in which slot,
and its length. Any number of slots may share an ONNX Runtime session, which has no state of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.sampling.selection import Draw, Row, Selected

Logits = NDArray[np.float32]
KeysValues = NDArray[np.floating[Any]]  # float32 or float16, as the graph has them


@dataclass(frozen=True, slots=True)
class Part:
    """The new tokens of one slot in a step, which follow its first `start` positions.

    `wanted` is the number of tokens, the last ones, after which logits are returned. With `after`
    the only token is the one that the device chose of that row, whatever `tokens` holds in its
    place.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: int = 1
    after: Row | None = None

    @property
    def end(self) -> int:
        """The number of positions in the slot after the step."""
        return self.start + len(self.tokens)


class Columns(NamedTuple):
    """The scores of a token in each of n rows of logits, as `TokenScores` has them.

    float32 [n], int32 [n], int32 and float32 [n, top], float32 [n].
    """

    logprobs: NDArray[np.float32]
    ranks: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    group: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Columns], top: int) -> Columns:
        """The rows of all parts, with `top` alternatives each."""
        kinds = (np.float32, np.int32, np.int32, np.float32, np.float32)
        shapes: tuple[tuple[int, ...], ...] = ((0,), (0,), (0, top), (0, top), (0,))
        none = cls(*(np.empty(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)))
        return cls(*(np.concatenate(column) for column in zip(none, *parts, strict=True)))

    def rows(self, some: slice) -> Columns:
        """Some of the rows."""
        return Columns(*(column[some] for column in self))  # type: ignore[arg-type]


class Slots(Protocol):
    """Slots for `count` sequences, and the step that extends them.

    `budget` is the most tokens of prompts that a step should read beside texts in progress,
    `prefixes` says whether it costs less to read and write the keys and values of a prompt's
    beginning than to compute them. Where it goes `ahead`, a step returns before it is done, and a
    part may come `after` a row of the step before, whose token is not known yet.
    """

    count: int
    budget: int = 256  # on a processor, texts wait for a tenth of a second or so
    prefixes: bool = True
    ahead: bool = False

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits | Selected:
        """Append the tokens of all parts, each of which has another slot.

        Returns logits float32 [R, n_vocab] after the wanted tokens, part after part; they are valid
        until the next step, or the one after that if the next comes after their rows. A device that
        gets `draws`, one for each row, also draws the next tokens, and returns the rows as
        `Selected`.

        A slot without a part keeps its positions, except that of a full slot the last one may be
        overwritten.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        """A copy of the keys and values of positions `start` to `end` (exclusive) of a slot.

        [n_layer, 2, n_head, end - start, width], the width and dtype being those of the graph.
        """

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        """Write keys and values from `read` to a slot from position `start` on, where it ends."""
