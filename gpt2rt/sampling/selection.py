"""Logits that stay where they were computed: a row's best tokens, and the rest when asked for.

On a device the graph itself ranks and draws (`gpt2rt.bundles.interface.cuda`). Most of what a
sampler asks can be answered from that; what cannot makes the whole row come over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Draw:
    """How a row's token is drawn from all the others: one over the temperature, and a number from 0
    to 1 that falls on it."""

    inverse_temperature: float = 1.0
    uniform: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row: the likeliest tokens `ids` [K] and their `logits` [K], best first.

    `normaliser` is the sum over all tokens of exp((logit - best) * inverse_temperature), `drawn`
    the token that the number of `draw` falls on. NumPy takes a row for its logits [n_vocab], which
    are fetched then.
    """

    ids: NDArray[np.int64]
    logits: Floats
    normaliser: float
    drawn: int
    draw: Draw
    n_vocab: int
    fetch: Callable[[], Floats]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.asarray(self.fetch(), dtype)

    @property
    def whole(self) -> bool:
        """Whether the best tokens are all there are."""
        return len(self.ids) == self.n_vocab


class Selected:
    """The rows of a step, good until the next call."""

    def __init__(
        self,
        best: NDArray[np.int64],
        logits: Floats,
        normaliser: Floats,
        drawn: NDArray[np.int64],
        draws: list[Draw],
        n_vocab: int,
        fetch: Callable[[int], Floats],
    ) -> None:
        """[R,K], [R,K], [R], [R]; `fetch` brings the logits [n_vocab] of a row."""
        self._rows = [
            Row(
                best[i],
                logits[i],
                float(normaliser[i]),
                int(drawn[i]),
                draw,
                n_vocab,
                _of(fetch, i),
            )
            for i, draw in enumerate(draws)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.asarray([row.fetch() for row in self._rows], dtype)


def _of(fetch: Callable[[int], Floats], row: int) -> Callable[[], Floats]:
    return lambda: fetch(row)
