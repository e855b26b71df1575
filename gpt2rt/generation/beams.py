"""Beam search: the most likely text rather than a drawn one.

Keeps the `width` best beginnings side by side (as Transformers' `BeamSearchScorer` documents it): a
text's score is its log-probability over its length to the power of `length_penalty`, and the search
ends once no beginning, at its present length, is better than the worst of `width` finished texts.
Penalties, bans and biases edit logits, as where tokens are drawn, and what they leave sums to 1;
Transformers edits log-probabilities (the same, with its `renormalize_logits`, for all of them but
the repetition penalty).
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
from gpt2rt.engine.slots import Logits
from gpt2rt.errors import BadLogits, InvalidSetting
from gpt2rt.generation.stopping import FinishReason

MOST = 1024


@dataclass(frozen=True, slots=True)
class Beams:
    """How many beginnings are kept, and how length counts. Raises `InvalidSetting`.

    Attributes:
        width: beginnings side by side, and texts in the end; 1 to 1024.
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
        """Of a text of `length` tokens whose log-probabilities sum to `total`."""
        return float(total / length**self.length_penalty)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished text: its tokens and the one that ended it, their log-probability, the reason."""

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


def beam_search(
    engine: Engine, first: Sequence, logits: Logits, beams: Beams, edit: Edit, ending: Ending
) -> list[Hypothesis]:
    """The best `beams.width` texts after what `first`, the one running sequence, has read.

    `logits` [n_vocab] are those after it; the engine has as many slots as there are beams. The best
    text comes first.
    """
    running = [_Beam(first, (), 0.0)]
    rows: NDArray[np.float32] = logits[None]
    finished: list[Hypothesis] = []
    while running:
        scores = np.stack(
            [
                b.total + log_softmax(edit(b.tokens, row))
                for b, row in zip(running, rows, strict=True)
            ]
        )
        children: list[tuple[int, int, float]] = []  # place of the parent, token, total
        for rank, (parent, token) in enumerate(_best(scores, 2 * beams.width)):
            tokens, total = (*running[parent].tokens, token), float(scores[parent, token])
            reason = ending(tokens)
            if reason is None:
                children.append((parent, token, total))
            elif rank < beams.width:
                score = beams.score(total, len(tokens))
                finished.append(Hypothesis(tokens, total, score, reason))
            if len(children) == beams.width:
                break
        finished = sorted(finished, key=lambda text: -text.score)[: beams.width]
        if _over(finished, children, beams, len(running[0].tokens) + 1):
            break
        running = _grown(engine, running, children)
        by_sequence = {beam.sequence: beam for beam in running}
        running = [by_sequence[sequence] for sequence in engine.running]
        rows = np.asarray(engine.step([beam.tokens[-1] for beam in running]))
    if not finished:
        raise BadLogits("no text is left to find: the settings together rule out every token")
    return finished


def _best(scores: NDArray[np.float64], count: int) -> list[tuple[int, int]]:
    """The `count` best of [beams, n_vocab] that can be had, the best first: beam and token."""
    flat = scores.ravel()
    count = min(count, len(flat))
    best = np.argpartition(flat, -count)[-count:]
    best = best[np.lexsort((best, -flat[best]))]
    pairs = (divmod(int(place), scores.shape[1]) for place in best if flat[place] > -np.inf)
    return list(pairs)


def _over(
    finished: list[Hypothesis], children: list[tuple[int, int, float]], beams: Beams, length: int
) -> bool:
    if not children:
        return True
    if len(finished) < beams.width:
        return False
    return beams.score(max(total for _, _, total in children), length) <= finished[-1].score


def _grown(
    engine: Engine, parents: list[_Beam], children: list[tuple[int, int, float]]
) -> list[_Beam]:
    """The children in their slots: the first of a parent takes its place, the others copy it."""
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
    """Natural log-probabilities. Raises `BadLogits` for NaN or +infinity."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    if np.isnan(shifted).any():
        raise BadLogits("the model's logits are not finite, or none is left by the settings")
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float64)
