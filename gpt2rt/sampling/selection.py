"""Rows of logits on a device, which chose a token of each; a row is copied only where it is needed.

What a device can choose is what its graphs say (`gpt2rt.bundles.interface.CHOICES`). Where that
does not suffice, the sampler copies the whole row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SHARPEST = 1e20  # an inverse temperature with which only the largest logits have a weight


class Changes(NamedTuple):
    """Changes of logits: of n different tokens, int64 [n] and three of float32 [n].

    `bias` is added to a token's logit, which is then divided by `factor` if it is positive, or else
    multiplied by it, and reduced by `off`.
    """

    ids: NDArray[np.int64]
    bias: Floats
    factor: Floats
    off: Floats


class Draw(NamedTuple):
    """How a device chooses a token, the best one by default.

    One over the temperature, a random number in [0, 1), the filters as in `SamplingParams`, the
    changes of logits before (None: there are none), and further random numbers, for what top-p and
    min-p keep of many tokens (none: the device does not try).
    """

    inverse_temperature: float = SHARPEST
    uniform: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    changes: Changes | None = None
    tries: tuple[float, ...] = ()

    @property
    def filtered(self) -> bool:
        """Whether it has any filter."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


BEST = Draw()


@dataclass(slots=True, eq=False)
class Row:
    """A row of logits on a device. NumPy copies it where it takes it as an array [n_vocab]."""

    rows: Selected
    number: int

    @property
    def chosen(self) -> int:
        """The token that the device chose; -1 if it cannot tell, or the logits are not finite."""
        return self.rows.chosen[self.number]

    @property
    def changed(self) -> bool:
        """Whether the device changed the logits before it chose; the row as an array has them as
        they were."""
        return self.rows.draws[self.number].changes is not None

    def again(self, draw: Draw) -> Row:
        """The same row, of which the device chooses a token by another draw."""
        return self.rows.again(self.number, draw)[0]

    def scored(self, token: int, top: int) -> Scored | None:
        """The scores of a token by the logits as they were, with `top` alternatives.

        None: the device does not have them, since it did not choose this token.
        """
        return self.rows.scored(top).get(self.number) if token == self.chosen else None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.asarray(self.rows.fetch(self.number), dtype)


# The log-probability of a token, and the likeliest ones and theirs, int32 and float32 [top].
Scored = tuple[float, NDArray[np.int32], Floats]


class Selected:
    """The rows of a step, valid as long as `gpt2rt.engine.slots.Slots.step` says.

    `choose` gives their tokens, as in `Row`, which are chosen by `draws`; `fetch` copies the logits
    float32 [n_vocab] of a row, by its number, to the host; `score` gives the scores of the chosen
    tokens, with so many alternatives, by the rows' numbers; `again` chooses once more, for the row
    of that number (by default no device does).
    """

    def __init__(
        self,
        choose: Callable[[], Sequence[int]],
        draws: Sequence[Draw],
        fetch: Callable[[int], Floats],
        score: Callable[[int], Mapping[int, Scored]] = lambda top: {},
        again: Callable[[int, Draw], Selected] | None = None,
    ) -> None:
        self._again = again
        self._choose = choose
        self._chosen: Sequence[int] | None = None
        self._failure: Exception | None = None
        self.draws = draws
        self._score = score
        self._scored: dict[int, Mapping[int, Scored]] = {}
        self.fetch = fetch

    @property
    def known(self) -> bool:
        """Whether nobody has to wait for the tokens any more."""
        return self._chosen is not None

    @property
    def chosen(self) -> Sequence[int]:
        """The tokens, when they are there. What it raises once, it raises whenever they are asked
        for: a device may report its failure to the first who waits alone."""
        if self._failure is not None:
            raise self._failure
        if self._chosen is None:
            try:
                self._chosen = self._choose()
            except Exception as error:
                self._failure = error
                raise
        return self._chosen

    def wait(self) -> None:
        """Wait until the tokens are there."""
        _ = self.chosen

    def scored(self, top: int) -> Mapping[int, Scored]:
        """The scores of the chosen tokens, by the numbers of the rows where one was chosen."""
        if top not in self._scored:
            self._scored[top] = self._score(top)
        return self._scored[top]

    def again(self, number: int, draw: Draw) -> Selected:
        """The row of that number alone, of which a token is chosen by another draw."""
        if self._again is None:
            return Selected(lambda: [-1], [draw], lambda _: self.fetch(number))
        assert self.known, "only one choice at a time is made of a row"
        return self._again(number, draw)

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, number: int) -> Row:
        return Row(self, range(len(self))[number])

    def __iter__(self) -> Iterator[Row]:
        return (Row(self, number) for number in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.asarray([self.fetch(number) for number in range(len(self))], dtype)
