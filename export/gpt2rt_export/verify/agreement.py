"""Compares two sets of logits for one text: differences, divergence and loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Float64 = NDArray[np.float64]

CHANCE = 3.0  # standard errors that count as chance
MOST_NATS = 700.0  # e to that power is still finite


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a bundle's logits agree with TensorFlow's at some positions of one text.

    `largest` and `mean` are absolute differences of logits; `deviation` is the standard deviation
    of TensorFlow's logits around each position's mean, for scale; `kl` is the mean Kullback-Leibler
    divergence in nats; `tempered` is the same with each position's logits divided by their standard
    deviation where that is above 1, which bounds it for confident models; `top1` is the share of
    positions with the same most likely token, `top5` the mean share of common tokens among the five
    most likely (of fewer tokens, among all).
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
        """The largest difference divided by the deviation; 0/0 is 0."""
        if self.deviation:
            return self.largest / self.deviation
        return math.inf if self.largest else 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean nats per token of the text, its first token left out; 0 for a text of one token.

    `error` is the standard error of the difference, if rounding changes tokens independently and
    without bias. `guess` is the loss of a model that knows only how often each token is in the
    text, or only how many tokens there are.
    """

    tensorflow: float
    bundle: float
    error: float
    guess: float = math.inf

    @classmethod
    def of(cls, wanted: Float64, found: Float64, guess: float = math.inf) -> Loss:
        """The loss, from the nats of each token by TensorFlow and by the bundle, float64 [S]."""
        count = max(1, len(wanted))
        error = math.sqrt(float(np.square(found - wanted).sum())) / count
        return cls(float(wanted.sum()) / count, float(found.sum()) / count, error, guess)

    @property
    def known(self) -> bool:
        """Whether TensorFlow's model predicts the text better than `guess`: only then is it a text
        of the model's kind, whose perplexity means something.
        """
        return self.tensorflow < self.guess

    @property
    def change(self) -> float:
        """The change of the perplexity, as a share of TensorFlow's."""
        return math.expm1(min(self.bundle - self.tensorflow, MOST_NATS))

    @property
    def excess(self) -> float:
        """The absolute `change` beyond `CHANCE` standard errors."""
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


# ---- comparing logits


def statistics(wanted: Logits, found: Logits, following: Sequence[int]) -> Float64:  # -> [R,9]
    """For each row: largest and mean difference, variance, divergence, divergence of tempered
    logits, whether the most likely token is the same, share of the five most likely, and the nats
    of the token `following` by `wanted` and by `found`.
    """
    wide, other = wanted.astype(np.float64), found.astype(np.float64)
    difference = np.abs(wide - other)
    p, q = log_softmax(wide), log_softmax(other)
    temperature = np.maximum(1.0, wide.std(axis=-1, keepdims=True))
    few = min(5, wanted.shape[-1])
    best = (np.argpartition(logits, -few, axis=-1)[:, -few:] for logits in (wanted, found))
    common = [len(np.intersect1d(a, b)) / few for a, b in zip(*best, strict=True)]
    at = np.arange(len(wanted)), np.asarray(following)
    columns = (
        difference.max(axis=-1),
        difference.mean(axis=-1),
        wide.var(axis=-1),
        divergence(p, q),
        divergence(log_softmax(wide / temperature), log_softmax(other / temperature)),
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
    """Nats per token of `tokens` by their own frequencies, at most those of a uniform guess."""
    counts = np.unique(np.asarray(tokens, np.int64), return_counts=True)[1]
    share = counts / max(1, counts.sum())
    return min(float(-(share * np.log(share)).sum()), math.log(n_vocab))
