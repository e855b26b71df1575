"""The filters (top-k, top-p, min-p, typical) and the draw, as functions over one row of logits.

To be fast, tokens that cannot be drawn are left out as early as possible, and only the rest is
sorted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt2rt.sampling.largest import kth_largest
from gpt2rt.sampling.params import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-20, 1e20  # others overflow float32
SORTED = 4096  # up to so many weights are sorted; of more, some are left out first
EVERY = 16  # one of so many weights is sampled to estimate where top-p is reached
SPARSE = 32  # the same, for a coarser estimate
CHUNK = 256  # weights in each of the partial sums of a draw


@dataclass(frozen=True, slots=True)
class Filter:
    """A rule that leaves out tokens, applied after top-k.

    `active` says whether settings use it. `keep` maps weights float32 [n], the largest being 1, to
    a bool mask [n] of those that stay. `one_by_one`: the sampler can decide for a single token
    whether it stays, without the exact weights of the others.
    """

    active: Callable[[SamplingParams], bool]
    keep: Callable[[Floats, SamplingParams], Mask]
    one_by_one: bool = False


def active(params: SamplingParams) -> tuple[Filter, ...]:
    """The filters that `params` use, in the order in which they are applied."""
    return tuple(rule for rule in FILTERS if rule.active(params))


def candidates(logits: Floats, params: SamplingParams) -> tuple[Ids | None, Floats]:
    """The tokens that may be drawn by `params` (temperature above 0), and their weights.

    logits float32 [n_vocab] -> ids int64 [n] (None: all), weights float32 [n]. Tokens of weight 0
    cannot be drawn; the probability of a token is its weight divided by the sum of all.
    """
    ids, weights = shortlist(logits, params)
    return ids, filtered(weights, params)


def shortlist(logits: Floats, params: SamplingParams) -> tuple[Ids | None, Floats]:
    """As `candidates`, but only top-k and a lone min-p leave tokens out."""
    if 0 < params.top_k < len(logits):
        ids = keep_top_k(logits, params.top_k)
    elif active(params) == (MIN_P,):
        below = clamped(params.temperature) * (1 - math.log(params.min_p))  # rounded to keep more
        ids = np.flatnonzero(logits >= float(logits.max()) - below)
    else:
        return None, softmax_weights(logits, params.temperature)
    return ids, softmax_weights(logits[ids], params.temperature)


def filtered(weights: Floats, params: SamplingParams) -> Floats:  # [n] -> [n]
    """The weights, the largest being 1, with 0 for tokens that the filters leave out."""
    for rule in active(params):
        weights = weights * rule.keep(weights, params)
    return weights


def clamped(temperature: float) -> float:
    """The temperature, limited to what float32 can compute with."""
    return min(max(temperature, LEAST_TEMPERATURE), MOST_TEMPERATURE)


def softmax_weights(logits: Floats, temperature: float) -> Floats:  # [n] -> [n]
    """exp(logits / temperature), scaled so that the largest weight is 1."""
    weights: Floats = logits - logits.max()
    # In place, since allocating memory at every step would cost more than the arithmetic.
    if temperature != 1:
        weights /= np.float32(clamped(temperature))
    np.exp(weights, out=weights)
    return weights


def keep_top_k(logits: Floats, k: int) -> Ids:  # [n_vocab] -> ids, ascending
    """The ids of the k largest logits and all ties of the k-th, as in OpenAI's `top_k_logits`."""
    return np.flatnonzero(logits >= kth_largest(logits, k))


def in_top_p(weights: Floats, p: float) -> Mask:  # [n] -> [n]
    """The nucleus (Holtzman et al. 2019): the fewest tokens of largest weight with a share of p.

    The token with which the sum reaches p is included; of tokens of equal weight the lower ids come
    first.
    """
    least, missing = _crossing(weights, p)
    inside = weights >= least
    if least > 0:
        ties = np.flatnonzero(weights == least)
        inside[ties[max(1, math.ceil(missing / least)) :]] = False
    return inside


def in_openai_top_p(weights: Floats, p: float) -> Mask:  # [n] -> [n]
    """As OpenAI's `top_p_logits`: without the token with which the sum exceeds p.

    The best token is always included, and so are tokens as likely as the last one included.
    """
    least, missing = _crossing(weights, p)
    if missing >= least > 0:  # at least one of the ties is within p, so all are included
        return weights >= least
    above = weights > least
    return above if above.any() else weights >= weights.max()


def in_typical_p(weights: Floats, p: float) -> Mask:  # [n] -> [n]
    """Locally typical tokens (Meister et al. 2022): a share of p of those with expected surprisal.

    They are the tokens whose surprisal is nearest to its mean; the one with which the sum reaches p
    is included. Tokens of weight 0 are not.
    """
    ids = np.flatnonzero(weights)
    shares = weights[ids] / weights.sum(dtype=np.float64)
    surprisal = -np.log(shares)
    distance = np.abs(surprisal - float(shares @ surprisal))
    inside = np.zeros(len(weights), bool)
    wanted = p
    while True:  # quickselect by share: every round decides half of the rest
        half = len(ids) // 2 if len(ids) > SORTED else len(ids)
        order = np.argpartition(distance, half - 1) if half < len(ids) else None
        near = slice(None) if order is None else order[:half]
        share = float(shares[near].sum())
        if order is None or share >= wanted:
            ids, shares, distance = ids[near], shares[near], distance[near]
            if len(ids) <= SORTED:
                break
        else:
            inside[ids[near]] = True
            wanted -= share
            rest = order[half:]
            ids, shares, distance = ids[rest], shares[rest], distance[rest]
    order = np.argsort(distance, kind="stable")
    count = int(np.searchsorted(np.cumsum(shares[order]), wanted)) + 1
    inside[ids[order[:count]]] = True
    return inside


def _crossing(weights: Floats, p: float) -> tuple[float, float]:
    """The weight at which the sum of weights, largest first, reaches the share p of the total, and
    how much of the sum is needed from weights equal to it.

    Weights too small to matter are left out first. A sample of the rest estimates an interval with
    the crossing; two sums confirm it, and only the weights in the interval are sorted.
    """
    total = float(weights.sum())
    wanted = p * total
    # All weights below this sum to at most half of the share that is left out.
    matters = weights > np.float32((total - wanted) / (2 * len(weights)))
    left = weights
    if np.count_nonzero(matters) <= len(weights) // 2:
        left = np.compress(matters, weights)
    while len(left) > SORTED:
        sample = np.sort(left[::EVERY])[::-1]
        guess = int(np.searchsorted(np.cumsum(sample, dtype=np.float64) * EVERY, wanted))
        margin = 2 * math.isqrt(len(sample))
        high = sample[guess - margin] if guess > margin else sample[0]
        low = sample[guess + margin] if guess + margin < len(sample) else np.float32(0)
        above = sum_above(left, high)
        if above >= wanted:
            narrowed = np.compress(left > high, left)
        else:
            wanted -= above
            within = sum_above(left, low) - above
            if within >= wanted:
                narrowed = np.compress((left <= high) & (left > low), left)
            else:
                wanted -= within
                narrowed = np.compress(left <= low, left)
        few = (
            len(narrowed) <= len(left) // 2
        )  # otherwise there are many ties, or the sample was misleading
        left = narrowed
        if not few:
            break
    ordered = np.sort(left)[::-1]
    sums = np.cumsum(ordered, dtype=np.float64)
    place = min(int(np.searchsorted(sums, wanted)), len(ordered) - 1)
    least = ordered[place]
    first = int(np.searchsorted(-ordered, -least))
    return float(least), wanted - (float(sums[first - 1]) if first else 0.0)


def sum_above(weights: Floats, least: np.float32) -> float:
    """The sum of the weights above `least`."""
    return float((weights * (weights > least)).sum())


def sum_from(weights: Floats, least: np.float32) -> float:
    """The sum of the weights that are `least` or more, with a relative error of about 1e-5."""
    return float(np.einsum("i,i->", weights, weights >= least))


TOP_P = Filter(
    active=lambda params: params.top_p < 1,
    keep=lambda weights, params: (
        in_openai_top_p(weights, params.top_p)
        if params.compat == "openai"
        else in_top_p(weights, params.top_p)
    ),
    one_by_one=True,
)
MIN_P = Filter(
    active=lambda params: params.min_p > 0,
    keep=lambda weights, params: weights >= np.float32(params.min_p),
    one_by_one=True,
)
TYPICAL = Filter(
    active=lambda params: params.typical_p < 1,
    keep=lambda weights, params: in_typical_p(weights, params.typical_p),
)
FILTERS = (TOP_P, MIN_P, TYPICAL)  # in the order of Transformers


def chunk_sums(weights: Floats) -> NDArray[np.float64]:  # [n] -> [ceil(n / CHUNK)]
    """The running sum of the weights at the end of every chunk of `CHUNK`."""
    sums = np.add.reduceat(weights, _starts(len(weights)))
    return np.cumsum(sums, dtype=np.float64)


def pick(weights: Floats, sums: NDArray[np.float64], uniform: float) -> int:
    """Draw an index by inverse transform sampling: where the running sum exceeds `uniform` * total.

    `sums` are the `chunk_sums` of the weights; `uniform` is a random number in [0, 1).
    """
    wanted = min(uniform * float(sums[-1]), math.nextafter(float(sums[-1]), 0))
    chunk = int(sums.searchsorted(wanted, side="right"))
    part = weights[chunk * CHUNK : (chunk + 1) * CHUNK]
    before = float(sums[chunk - 1]) if chunk else 0.0
    index = int(part.cumsum(dtype=np.float64).searchsorted(wanted - before, side="right"))
    if index == len(part):  # by rounding, the sum ends just below; take the last that can be drawn
        index = int(part.nonzero()[0][-1])
    return chunk * CHUNK + index


@lru_cache(maxsize=8)
def _starts(length: int) -> NDArray[np.intp]:
    return np.arange(0, length, CHUNK)
