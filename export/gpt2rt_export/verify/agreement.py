"""What two sets of logits for one text have in common: differences, divergence, loss and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Float64 = NDArray[np.float64]

CHANCE = 3.0  # standard errors that the loss may be off by chance
MOST_NATS = 700.0  # e to that power is still a number


@dataclass(frozen=True, slots=True)
class Agreement:
    """Logits of a bundle beside TensorFlow's, over some positions of one text.

    `largest` and `mean` are differences of logits; `deviation` is the standard deviation of
    TensorFlow's logits around each position's mean, for scale; `kl` is the mean Kullback-Leibler
    divergence in nats, `tempered` the same where each position's logits are divided by their
    deviation if that is above 1: bounded however sharp a model is; `top1` is the share of
    positions where both prefer the same token, `top5` the mean share of common tokens among the
    best five (of fewer, among all).
    """

    positions: int
    largest: float
    mean: float
    deviation: float
    kl: float
    tempered: float
    top1: float
    top5: float

    @property
    def relative(self) -> float:
        """The largest difference in deviations; 0 of nothing at all is 0."""
        if self.deviation:
            return self.largest / self.deviation
        return math.inf if self.largest else 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean nats a token of the text after its first one, 0 where there is no more.

    `error` is the standard error of their difference if rounding had no direction: then a text of
    so many tokens shows a difference of that size by chance. `guess` is what the text costs one who
    knows no more than how often each token is in it, or than how many tokens there are.
    """

    tensorflow: float
    bundle: float
    error: float
    guess: float = math.inf

    @classmethod
    def of(cls, wanted: Float64, found: Float64, guess: float = math.inf) -> Loss:
        """Takes the nats of each token."""
        count = max(1, len(wanted))
        error = math.sqrt(float(np.square(found - wanted).sum())) / count
        return cls(float(wanted.sum()) / count, float(found.sum()) / count, error, guess)

    @property
    def known(self) -> bool:
        """Whether TensorFlow's model reads the text better than the guess: only then is it one of
        the model's kind, whose perplexity means something.
        """
        return self.tensorflow < self.guess

    @property
    def change(self) -> float:
        """Of the perplexity, as a share of TensorFlow's."""
        return math.expm1(min(self.bundle - self.tensorflow, MOST_NATS))

    @property
    def excess(self) -> float:
        """As `change`, in either direction, without what may be chance."""
        beyond = abs(self.bundle - self.tensorflow) - CHANCE * self.error
        return math.expm1(min(beyond, MOST_NATS))

    def as_dict(self) -> dict[str, float]:
        perplexities = {
            "tensorflow": math.exp(min(self.tensorflow, MOST_NATS)),
            "bundle": math.exp(min(self.bundle, MOST_NATS)),
        }
        if math.isfinite(self.guess):
            perplexities["guess"] = math.exp(self.guess)
        return {**perplexities, "change": self.change, "error": self.error, "excess": self.excess}


@dataclass(frozen=True, slots=True)
class Noise:
    """How far cached and uncached logits of the bundle itself are apart.

    `largest` is the largest difference; `near_ties` is the share of positions where the two best
    tokens are no further apart than that, and `greedy_equal` says whether everywhere else both ways
    prefer the same token.
    """

    largest: float
    near_ties: float
    greedy_equal: bool

    @classmethod
    def of(cls, whole: Logits, stepwise: Logits) -> Noise:  # [R,V], [R,V]
        largest = float(np.abs(whole - stepwise).max())
        if whole.shape[-1] == 1:
            return cls(largest, 0.0, not math.isnan(largest))
        second, best = np.partition(whole, -2, axis=-1)[:, -2:].T
        # Written so that NaNs are no near ties and differ.
        apart = ~(best - second <= largest)
        same = np.argmax(whole, axis=-1) == np.argmax(stepwise, axis=-1)
        return cls(largest, float(np.mean(~apart)), bool((same & ~np.isnan(best))[apart].all()))


# ---- comparing logits


def compare(wanted: Logits, found: Logits) -> Agreement:  # [R,V], [R,V]
    return agreement_of(statistics(wanted, found, [0] * len(wanted)))


def statistics(wanted: Logits, found: Logits, following: Sequence[int]) -> Float64:  # -> [R,9]
    """Of each row: largest and mean difference, variance, divergence, that of tempered logits,
    whether the best is the same, share of the best five, and by either the nats of the token that
    follows.
    """
    wide, other = wanted.astype(np.float64), found.astype(np.float64)
    difference = np.abs(wide - other)
    p, q = log_softmax(wide), log_softmax(other)
    heat = np.maximum(1.0, wide.std(axis=-1, keepdims=True))
    few = min(5, wanted.shape[-1])
    best = (np.argpartition(logits, -few, axis=-1)[:, -few:] for logits in (wanted, found))
    common = [len(np.intersect1d(a, b)) / few for a, b in zip(*best, strict=True)]
    at = np.arange(len(wanted)), np.asarray(following)
    columns = (
        difference.max(axis=-1),
        difference.mean(axis=-1),
        wide.var(axis=-1),
        divergence(p, q),
        divergence(log_softmax(wide / heat), log_softmax(other / heat)),
        np.argmax(wanted, axis=-1) == np.argmax(found, axis=-1),
        common,
        -p[at],
        -q[at],
    )
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=-1)


def agreement_of(rows: Float64) -> Agreement:  # [R,9]
    largest, mean, variance, kl, tempered, top1, top5, _, _ = rows.T
    return Agreement(
        positions=len(rows),
        largest=float(largest.max()),
        mean=float(mean.mean()),
        deviation=float(np.sqrt(variance.mean())),
        kl=float(kl.mean()),
        tempered=float(tempered.mean()),
        top1=float(top1.mean()),
        top5=float(top5.mean()),
    )


def log_softmax(logits: NDArray[Any]) -> Float64:  # [..., V] -> [..., V]
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float64)


def divergence(p: Float64, q: Float64) -> Float64:  # log-probabilities [R,V], [R,V] -> [R]
    return np.asarray(np.sum(np.exp(p) * (p - q), axis=-1), np.float64)


def guess_of(tokens: Sequence[int], n_vocab: int) -> float:
    """Nats a token of `tokens` by their own frequencies, at most those of an even guess."""
    counts = np.unique(np.asarray(tokens, np.int64), return_counts=True)[1]
    share = counts / max(1, counts.sum())
    return min(float(-(share * np.log(share)).sum()), math.log(n_vocab))
