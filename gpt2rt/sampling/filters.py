"""Which tokens may be drawn, as weights over a row of logits, and which one a number falls on.

Only candidates are ever sorted: the row is narrowed down as early as it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt2rt.sampling.params import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-20, 1e20  # beyond, float32 holds no more
SORTED = 4096  # weights that are sorted rather than narrowed down again
EVERY = 16  # one weight in so many stands for the others where the crossing is looked for
SPARSE = 32  # the same, for a rougher look
CHUNK = 256  # weights summed as one


@dataclass(frozen=True, slots=True)
class Filter:
    """A rule by which settings leave tokens out, of those that a top-k keeps.

    `active`: whether the settings use it. `keep`: weights [n], the best of them 1, to a mask [n] of
    those that stay. `one_by_one`: whether the sampler can tell of a single token that it stays,
    without looking at the others; for a filter of which it cannot it works out all weights.
    """

    active: Callable[[SamplingParams], bool]
    keep: Callable[[Floats, SamplingParams], Mask]
    one_by_one: bool = False


def active(params: SamplingParams) -> tuple[Filter, ...]:
    """The filters that the settings use, in the order in which they apply."""
    return tuple(rule for rule in FILTERS if rule.active(params))


def candidates(logits: Floats, params: SamplingParams) -> tuple[Ids | None, Floats]:
    """The tokens that `params` (temperature above 0) let be drawn, and their weights.

    logits float32 [n_vocab] -> ids int64 [n] (None: all of them), weights float32 [n], 0 for what
    cannot be drawn; a token's probability is its weight over their sum.
    """
    ids, weights = shortlist(logits, params)
    return ids, filtered(weights, params)


def shortlist(logits: Floats, params: SamplingParams) -> tuple[Ids | None, Floats]:
    """As `candidates`, by the rules that look at a token's logit alone."""
    if 0 < params.top_k < len(logits):
        ids = keep_top_k(logits, params.top_k)
    elif active(params) == (MIN_P,):
        below = clamped(params.temperature) * (1 - math.log(params.min_p))  # not one too few
        ids = np.flatnonzero(logits >= float(logits.max()) - below)
    else:
        return None, softmax_weights(logits, params.temperature)
    return ids, softmax_weights(logits[ids], params.temperature)


def filtered(weights: Floats, params: SamplingParams) -> Floats:  # [n] -> [n]
    """The weights, the best of them 1, with 0 for what the filters leave out."""
    for rule in active(params):
        weights = weights * rule.keep(weights, params)
    return weights


def clamped(temperature: float) -> float:
    return min(max(temperature, LEAST_TEMPERATURE), MOST_TEMPERATURE)


def softmax_weights(logits: Floats, temperature: float) -> Floats:  # [n] -> [n]
    """exp(logits / temperature), scaled so that the best has 1."""
    weights: Floats = logits - logits.max()
    # In place: fresh pages for every step would cost more than the arithmetic.
    if temperature != 1:
        weights /= np.float32(clamped(temperature))
    np.exp(weights, out=weights)
    return weights


def keep_top_k(logits: Floats, k: int) -> Ids:  # [n_vocab] -> ids, ascending
    """The k largest; ties of the k-th stay, as in OpenAI's `top_k_logits`."""
    smallest_kept = np.partition(logits, -k)[-k]
    return np.flatnonzero(logits >= smallest_kept)


def in_top_p(weights: Floats, p: float) -> Mask:  # [n] -> [n]
    """The nucleus: the fewest largest whose share reaches p; the one that crosses p stays in.

    Of tokens with the weight at which p is crossed, the first come first.
    """
    least, missing = _crossing(weights, p)
    inside = weights >= least
    if least > 0:
        ties = np.flatnonzero(weights == least)
        inside[ties[max(1, math.ceil(missing / least)) :]] = False
    return inside


def in_openai_top_p(weights: Floats, p: float) -> Mask:  # [n] -> [n]
    """As OpenAI's `top_p_logits`: the token that crosses p is left out, though never the best.

    Tokens as likely as the last one kept stay.
    """
    least, missing = _crossing(weights, p)
    if missing >= least > 0:  # one of the ties at least fits under p, so all stay
        return weights >= least
    above = weights > least
    return above if above.any() else weights >= weights.max()


def in_typical_p(weights: Floats, p: float) -> Mask:  # [n] -> [n]
    """Locally typical: tokens whose surprisal is nearest to its mean, until their share reaches p.

    The one that crosses p stays in (Meister et al. 2022). What has no weight stays out.
    """
    ids = np.flatnonzero(weights)
    shares = weights[ids] / weights.sum(dtype=np.float64)
    surprisal = -np.log(shares)
    strangeness = np.abs(surprisal - float(shares @ surprisal))
    inside = np.zeros(len(weights), bool)
    wanted = p
    while True:  # quickselect by share: half of what is left is decided in every round
        half = len(ids) // 2 if len(ids) > SORTED else len(ids)
        order = np.argpartition(strangeness, half - 1) if half < len(ids) else None
        near = slice(None) if order is None else order[:half]
        share = float(shares[near].sum())
        if order is None or share >= wanted:
            ids, shares, strangeness = ids[near], shares[near], strangeness[near]
            if len(ids) <= SORTED:
                break
        else:
            inside[ids[near]] = True
            wanted -= share
            rest = order[half:]
            ids, shares, strangeness = ids[rest], shares[rest], strangeness[rest]
    order = np.argsort(strangeness, kind="stable")
    count = int(np.searchsorted(np.cumsum(shares[order]), wanted)) + 1
    inside[ids[order[:count]]] = True
    return inside


def _crossing(weights: Floats, p: float) -> tuple[float, float]:
    """Where the running sum from the largest down reaches the share p: the weight there, and what
    is still missing from tokens of just that weight.

    Weights too small to matter go first. Of what is left a sample tells about where the crossing
    is; two sums confirm it, and only the few weights in between are sorted.
    """
    total = float(weights.sum())
    wanted = p * total
    # All below this together weigh at most half of the share that is left out.
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
        few = len(narrowed) <= len(left) // 2  # else: ties without end, or a misleading order
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
    """The sum of the weights above `least`, without picking them out."""
    return float((weights * (weights > least)).sum())


def sum_from(weights: Floats, least: np.float32) -> float:
    """The sum of the weights from `least` on, to about 1e-5 of it."""
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
    """Running sums at the ends of chunks of `CHUNK` weights."""
    sums = np.add.reduceat(weights, _starts(len(weights)))
    return np.cumsum(sums, dtype=np.float64)


def pick(weights: Floats, sums: NDArray[np.float64], uniform: float) -> int:
    """Inverse transform sampling: where the running sum passes `uniform` (0 to 1) of the total.

    `sums` are those of `chunk_sums`; only the chunk that the sum ends in is looked at closely.
    """
    wanted = min(uniform * float(sums[-1]), math.nextafter(float(sums[-1]), 0))
    chunk = int(sums.searchsorted(wanted, side="right"))
    part = weights[chunk * CHUNK : (chunk + 1) * CHUNK]
    before = float(sums[chunk - 1]) if chunk else 0.0
    index = int(part.cumsum(dtype=np.float64).searchsorted(wanted - before, side="right"))
    if index == len(part):  # rounding: the sum is a hair short of the last that can be drawn
        index = int(part.nonzero()[0][-1])
    return chunk * CHUNK + index


@lru_cache(maxsize=8)
def _starts(length: int) -> NDArray[np.intp]:
    return np.arange(0, length, CHUNK)
