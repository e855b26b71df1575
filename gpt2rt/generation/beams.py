"""Beam search: the most likely text instead of a drawn one.

The search extends the `width` best beams, as Transformers' `BeamSearchScorer` does. A text's score
is its log-probability divided by its length to the power of `length_penalty`. The search ends when
no beam, at its present length, scores better than the worst of `width` finished texts. Penalties,
bans and biases change logits, as in sampling, before the softmax; Transformers changes
log-probabilities (with `renormalize_logits` that is the same, except for the repetition penalty).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import groupby
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from gpt2rt.engine.engine import Engine, Sequence
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.errors import BadLogits, InvalidSetting
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.sampling.largest import largest

MOST = 1024


@dataclass(frozen=True, slots=True)
class Beams:
    """The settings of a beam search. Raises `InvalidSetting` for invalid values.

    Attributes:
        width: the number of beams, and of the texts found; 1 to 1024.
        length_penalty: above 0 favours long texts, below 0 short ones.
    """

    width: int = 4
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if type(self.width) is not int or not 1 <= self.width <= MOST:
            raise InvalidSetting(f"beams must be 1 to {MOST}, a whole number, not {self.width}")
        if not isinstance(self.length_penalty, Real) or not abs(self.length_penalty) <= MOST:
            raise InvalidSetting(
                f"length_penalty must be -{MOST} to {MOST}, not {self.length_penalty}"
            )

    def score(self, total: float, length: int) -> float:
        """The score of a text of `length` tokens whose log-probabilities sum to `total`."""
        return float(total / length**self.length_penalty)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished text: its tokens with the one that ended it, and why it ended.

    `total` is the sum of the tokens' log-probabilities in nats, `score` is that of `Beams.score`.
    """

    tokens: tuple[int, ...]
    total: float
    score: float
    reason: FinishReason


@dataclass(slots=True, eq=False)
class _Beam:
    sequence: Sequence
    tokens: tuple[int, ...]
    total: float


Edit = Callable[[Seq[int], Logits], Logits]  # new tokens, logits [n_vocab] -> logits [n_vocab]
Ending = Callable[[tuple[int, ...]], FinishReason | None]  # new tokens -> why they end the text


class BeamSearch:
    """A search in progress: its beams are sequences of an engine, which has a slot for each.

    `finished` are the best texts so far, the best first.
    """

    def __init__(
        self, engine: Engine, first: Sequence, beams: Beams, edit: Edit, ending: Ending
    ) -> None:
        """Begin with `first`, whose prompt has been read.

        `edit` applies penalties and bans, `ending` says why a sequence of tokens ends a text.
        """
        self._engine, self._beams, self._edit, self._ending = engine, beams, edit, ending
        self._running = [_Beam(first, (), 0.0)]
        self.finished: list[Hypothesis] = []

    @property
    def sequences(self) -> list[Sequence]:
        """Those of the beams; the search has as many as `beams.width` at most."""
        return [beam.sequence for beam in self._running]

    def parts(self) -> list[Part]:
        """The parts of the next step: the last token of each beam."""
        return [beam.sequence.part(beam.tokens[-1:]) for beam in self._running]

    def take(self, rows: Seq[Logits]) -> bool:
        """Extend the beams by logits float32 [n_vocab] after each; whether the search is over.

        Raises `BadLogits`, and `InvalidSetting` if no text is found.
        """
        children = self._children(rows)
        if not _over(self.finished, children, self._beams, len(self._running[0].tokens) + 1):
            self._running = _grown(self._engine, self._running, children)
            return False
        if not self.finished:
            raise InvalidSetting(
                "beam search found no text: the settings together rule out every token"
            )
        return True

    def _children(self, rows: Seq[Logits]) -> list[tuple[int, int, float]]:
        """The beams that go on, the best first: index of the parent, token, total.

        Those that end join `finished`.
        """
        width, running = self._beams.width, self._running
        scores = np.stack(
            [
                beam.total + log_softmax(self._edit(beam.tokens, row))
                for beam, row in zip(running, rows, strict=True)
            ]
        )
        children: list[tuple[int, int, float]] = []
        finished = self.finished
        for rank, (parent, token) in enumerate(_best(scores, 2 * width)):
            tokens, total = (*running[parent].tokens, token), float(scores[parent, token])
            reason = self._ending(tokens)
            if reason is None:
                children.append((parent, token, total))
            elif rank < width:
                score = self._beams.score(total, len(tokens))
                finished.append(Hypothesis(tokens, total, score, reason))
            if len(children) == width:
                break
        self.finished = sorted(finished, key=lambda text: -text.score)[:width]
        return children


def _best(scores: NDArray[np.float64], count: int) -> list[tuple[int, int]]:
    """Beam and token of the `count` best scores [beams, n_vocab] above -inf, the best first."""
    flat = scores.ravel()
    best = largest(flat, count)
    pairs = (divmod(int(place), scores.shape[1]) for place in best if flat[place] > -np.inf)
    return list(pairs)


def _over(
    finished: list[Hypothesis], children: list[tuple[int, int, float]], beams: Beams, length: int
) -> bool:
    """Whether the search ends, since no child of `length` can beat the finished texts."""
    if not children:
        return True
    if len(finished) < beams.width:
        return False
    return beams.score(max(total for _, _, total in children), length) <= finished[-1].score


def _grown(
    engine: Engine, parents: list[_Beam], children: list[tuple[int, int, float]]
) -> list[_Beam]:
    """The beams of the children: the first of each parent takes its slot, others get a copy."""
    taken = {parent for parent, _, _ in children}
    spare = [beam.sequence for place, beam in enumerate(parents) if place not in taken]
    grown = []
    for parent, group in groupby(sorted(children), key=lambda child: child[0]):
        for nth, (_, token, total) in enumerate(group):
            sequence = parents[parent].sequence
            if nth and spare:
                engine.replace(spare[-1], sequence)
                sequence = spare.pop()
            elif nth:
                sequence = engine.fork(sequence)
            grown.append(_Beam(sequence, (*parents[parent].tokens, token), total))
    for sequence in spare:
        engine.finish(sequence)
    return grown


def log_softmax(logits: Logits) -> NDArray[np.float64]:  # [n] -> [n]
    """The log-probabilities of all tokens, in nats. Raises `BadLogits` for NaN or +infinity."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    if np.isnan(shifted).any():
        raise BadLogits("the model's logits are not finite, or the settings leave no token")
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float64)
