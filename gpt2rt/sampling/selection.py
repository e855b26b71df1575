"""Rows of logits on a device, of which only the best tokens are copied to the host.

The CUDA graph itself finds the best tokens and draws one (`gpt2rt.bundles.interface.cuda`). Mostly
that is enough for the sampler; otherwise it copies the whole row.
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
    """How a device draws a token: one over the temperature, and a random number in [0, 1)."""

    inverse_temperature: float = 1.0
    uniform: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A row of logits on a device: its likeliest tokens, the token drawn, and access to the rest.

    `ids` int64 [K] are the likeliest tokens, best first, `logits` float32 [K] theirs. `normaliser`
    is the sum over all tokens of exp((logit - largest logit) * inverse_temperature), `drawn` the
    token that was drawn by `draw`. `fetch` copies all logits, float32 [n_vocab], to the host; NumPy
    calls it where it takes the row as an array.
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
        """Whether `ids` are all tokens of the vocabulary."""
        return len(self.ids) == self.n_vocab


class Selected:
    """The rows of a decode step, valid until the next call."""

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
        """`best` and `logits` are [R, K], `normaliser` and `drawn` [R], as in `Row`.

        `fetch` copies the logits float32 [n_vocab] of the row of that number.
        """
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
