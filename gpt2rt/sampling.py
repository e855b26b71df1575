"""From logits to the next token: edits by what came before, candidates, the draw.

Pure functions over one row of logits, and a `Sampler` that keeps what one sequence needs: what it
has said, and its random numbers. The work shrinks as early as it can: only candidates are ever
sorted, and edits touch only the tokens they are about.

The order is that of Transformers: logit bias, repetition, frequency and presence penalties, banned
tokens; then temperature, top-k, top-p, min-p, typical. OpenAI's `sample.py` has three of them, in
the same order, and another rule for top-p (`compat="openai"`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import BadLogits
from gpt2rt.history import Edits, History
from gpt2rt.params import SamplingParams
from gpt2rt.selection import Draw, Row

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

COLDEST, HOTTEST = 1e-20, 1e20  # beyond: ties of the best alone, all alike; float32 holds no more
SORTED = 4096  # weights that are sorted rather than narrowed down again
EVERY = 16  # one weight in so many stands for the others where the crossing is looked for
SPARSE = 32  # the same, for a rougher look
STRETCH = 256  # weights summed as one
DRAWN = 64  # tokens whose random numbers are made at once
SMALL = 0.25  # top-p for which a first try from all the tokens seldom pays
TRIES = 12  # draws before what may be drawn is worked out
NUMBERS = 2 * TRIES + 1  # random numbers a token
ONE_OCTAVE, WEIGHT_ONE = 1 << 23, 127 << 23  # in the bits of a float32: twice as much, and 1.0
ROUNDING = 1 + 1e-4  # of bounds and of their sums, at most
EXCESS = 2 / (math.e * math.log(2)) * ROUNDING  # how far a chord of 2**x is above it, at most


class Restriction(Protocol):
    """What may come next, as a constraint sees it (`gpt2rt.constraint.Matcher`)."""

    def mask(self, logits: Floats, left: int | None) -> Floats:
        """`logits` with -inf for what cannot come next, `left` tokens from the end at most."""


class Sampler:
    """Draws the tokens of one sequence.

    The n-th token's random numbers are a function of `seed`, `sample` (the sequence's) and n alone:
    batch mates, batch size and order change nothing (Philox, Salmon et al. 2011, a counter-based
    generator).
    """

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        sample: int,
        edits: Edits = Edits(),
        prompt: Seq[int] = (),
    ) -> None:
        self._params = params
        self._edits = edits
        self._prompt = prompt
        self._history = History(params, edits, prompt)
        self._random = np.random.Generator(
            np.random.Philox(key=np.array([seed, sample], np.uint64))
        )
        self._uniforms: list[list[float]] = []
        self._drawn = 0

    def next_draw(self, ahead: int = 0) -> Draw:
        """How a device may draw the token `ahead` tokens from now, if it comes from all of them."""
        if self._params.greedy:
            return Draw()
        number = self._numbers(self._drawn + ahead)[0]
        return Draw(1 / _clamped(self._params.temperature), number)

    def draw(
        self, logits: Floats | Row, matcher: Restriction | None = None, left: int | None = None
    ) -> int:  # [n_vocab] -> id
        """The next token: of those that `matcher` allows, with `left` more to come at most.

        Leaves `logits` as they are. Raises `BadLogits` for NaN or +infinity, or where the settings
        rule out every token.
        """
        if self._history.edits:
            logits = self._history.edit(np.array(logits))
        if matcher is not None:
            logits = matcher.mask(np.asarray(logits), left)
        token = choose(logits, self._params, self._numbers(self._drawn))
        self._drawn += 1
        self._history.take(token)
        return token

    def edited(self, logits: Floats, tokens: Seq[int]) -> Floats:  # [n_vocab] -> [n_vocab]
        """`logits` as penalties and bans leave them after `tokens`, instead of what was drawn."""
        if not self._history.edits:
            return logits
        history = History(self._params, self._edits, self._prompt)
        for token in tokens:
            history.take(token)
        return history.edit(logits.copy())

    def guess(self, logits: Floats | Row, ahead: int) -> int:
        """What `draw` would make of `logits` `ahead` tokens from now, edits and constraint aside.

        A draft that guesses with the numbers that will be drawn with is right as often as the two
        models agree.
        """
        return choose(logits, self._params, self._numbers(self._drawn + ahead))

    def _numbers(self, n: int) -> list[float]:
        """The random numbers of the n-th token."""
        while n >= len(self._uniforms):
            self._uniforms += self._random.random((DRAWN, NUMBERS)).tolist()
        return self._uniforms[n]


def choose(logits: Floats | Row, params: SamplingParams, uniforms: Seq[float]) -> int:
    """The token that random numbers in 0 to 1 fall on, `NUMBERS` of them. Raises `BadLogits`.

    Of a row on a device no more is fetched than it takes.
    """
    if isinstance(logits, Row):
        token = choose_selected(logits, params, uniforms[-1])
        if token is not None:
            return token
        logits = np.asarray(logits)
    best = int(np.argmax(logits))  # the first NaN, where there is one
    if logits[best] == -math.inf:
        raise BadLogits("no token is left to draw: the settings together rule out every one")
    if not math.isfinite(logits[best]):
        raise BadLogits(f"the model's logits are not finite ({logits[best]} for token {best})")
    if params.greedy:
        return best
    if 0 < params.top_k < len(logits) or params.typical_p < 1:  # few tokens, or all weights needed
        return _picked(logits, params, uniforms[-1])
    return _tried(logits, best, params, uniforms)


def _picked(logits: Floats, params: SamplingParams, uniform: float) -> int:
    ids, weights = candidates(logits, params)
    index = pick(weights, stretches(weights), uniform)
    return index if ids is None else int(ids[index])


def choose_selected(row: Row, params: SamplingParams, uniform: float) -> int | None:
    """As `choose`, from what a device selected; None where that cannot tell."""
    if not (math.isfinite(row.logits[0]) and math.isfinite(row.mass)):
        return None
    if params.greedy:
        return int(row.ids[0])
    if 0 < params.top_k < row.n_vocab:
        return _from_top_k(row, params, uniform)
    if (params.top_p, params.min_p, params.typical_p) == (1, 0, 1):
        return row.drawn
    return None if params.typical_p < 1 else _from_nucleus(row, params, uniform)


def _from_top_k(row: Row, params: SamplingParams, uniform: float) -> int | None:
    least = row.logits[min(params.top_k, len(row.ids)) - 1]
    if row.logits[-1] == least and not row.whole:
        return None  # the k-th may have ties that were not selected
    count = int(np.count_nonzero(row.logits >= least))
    order = np.argsort(row.ids[:count])
    weights = softmax_weights(row.logits[:count][order], params.temperature)
    kept = filtered(weights, params)
    return int(row.ids[order[pick(kept, stretches(kept), uniform)]])


def _from_nucleus(row: Row, params: SamplingParams, uniform: float) -> int | None:
    """A token of those that top-p and min-p keep, where all of these were selected."""
    weights = softmax_weights(row.logits, params.temperature)
    count = len(weights)
    if params.top_p < 1:
        sums = np.cumsum(weights, dtype=np.float64)
        wanted = params.top_p * row.mass
        crossing = int(np.searchsorted(sums, wanted))
        if crossing < count and params.compat == "openai":
            count = max(1, crossing + int(sums[crossing] <= wanted))
            count = int(np.count_nonzero(weights >= weights[count - 1]))
        elif crossing < count:
            count = crossing + 1
    count = min(count, int(np.count_nonzero(weights >= np.float32(params.min_p))))
    if count == len(weights) and not row.whole:
        return None  # more may belong to it
    order = np.argsort(row.ids[:count])
    kept = weights[order]
    return int(row.ids[order[pick(kept, stretches(kept), uniform)]])


def _tried(logits: Floats, best: int, params: SamplingParams, uniforms: Seq[float]) -> int:
    """A draw for which most weights are never worked out (rejection sampling).

    Tokens are drawn by what their weights are at most. One is taken as often as its weight is of
    that, and only if top-p and min-p keep it, for which it need not be known what else they keep;
    the less likely than one that they leave out are no longer drawn. So a token comes as often as
    among `candidates`, which have the last word where no try succeeds.
    """
    temperature = _clamped(params.temperature)
    weights: Floats | None = None  # of all tokens, once they are needed
    ids: Ids | None = None
    above = bounds(logits, float(logits[best]), temperature)
    sums = stretches(above)
    total = float(sums[-1])
    if params.top_p < SMALL:
        ids, above, sums = _heavy(ids, above, np.float32(0), total, params)
    out = np.float32(0)  # what has less than this above it was left out
    for place, share in zip(uniforms[:-1:2], uniforms[1:-1:2], strict=True):
        index = pick(above, sums, place)
        if above[index] < out:
            continue
        token = index if ids is None else int(ids[index])
        weight = math.exp((float(logits[token]) - float(logits[best])) / temperature)
        if share * ROUNDING * float(above[index]) >= weight:
            continue
        kept: bool | None = weight >= params.min_p
        if kept and params.top_p < 1 and token != best:
            kept = _in_nucleus(index, above, total, params)
        if kept is None:
            if weights is None:
                weights = softmax_weights(logits, temperature)
            kept = _kept(token, weights, float(weights.sum()), params)
        if kept:
            return token
        out = above[index]
        if params.top_p < SMALL or weight < params.min_p:  # it pays to draw from fewer
            ids, above, sums = _heavy(ids, above, out, total, params)
    return _picked(logits, params, uniforms[-1])


def _heavy(
    ids: Ids | None, above: Floats, out: np.float32, total: float, params: SamplingParams
) -> tuple[Ids, Floats, NDArray[np.float64]]:
    """Of tokens and their bounds [n] those that top-p and min-p may keep, and their stretches.

    `out` is the bound of one left out. Where the nucleus ends at most is guessed; that what is
    above has more than the nucleus, whatever the weights are, confirms it.
    """
    least = max(out, np.float32(params.min_p / ROUNDING))
    enough = params.top_p * total * EXCESS if params.top_p < 1 else math.inf
    guess = max(least, _reached(above, enough))
    heavy = np.flatnonzero(above >= guess)
    rest = above[heavy]
    sums = stretches(rest)
    if guess > least and sums[-1] <= enough:
        heavy = np.flatnonzero(above >= least)
        rest = above[heavy]
        sums = stretches(rest)
    ids = heavy if ids is None else ids[heavy]
    if len(rest) <= SORTED < len(above) and sums[-1] > 1.5 * enough:  # a closer guess pays
        return _heavy(ids, rest, out, total, params)
    return ids, rest, sums


def _reached(weights: Floats, mass: float) -> np.float32:
    """About where the sum from the largest down reaches `mass`, rather below; by a sample of many
    weights [n]. 0 where it never does."""
    if mass == math.inf:
        return np.float32(0)
    every = SPARSE if len(weights) > SORTED else 1
    sample = np.sort(weights[::every])[::-1]
    place = int(np.searchsorted(np.cumsum(sample, dtype=np.float64) * every, mass))
    place += 2 * math.isqrt(place) + 8 if every > 1 else 1
    return np.float32(sample[place] if place < len(sample) else 0)


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
    elif params.min_p > 0 and params.top_p == params.typical_p == 1:
        below = _clamped(params.temperature) * (1 - math.log(params.min_p))  # not one too few
        ids = np.flatnonzero(logits >= float(logits.max()) - below)
    else:
        return None, softmax_weights(logits, params.temperature)
    return ids, softmax_weights(logits[ids], params.temperature)


def filtered(weights: Floats, params: SamplingParams) -> Floats:  # [n] -> [n]
    """The weights, the best of them 1, with 0 for what top-p, min-p and typical leave out."""
    if params.top_p < 1:
        rule = in_openai_top_p if params.compat == "openai" else in_top_p
        weights = weights * rule(weights, params.top_p)
    if params.min_p > 0:
        weights = weights * (weights >= np.float32(params.min_p))
    if params.typical_p < 1:
        weights = weights * in_typical_p(weights, params.typical_p)
    return weights


def _in_nucleus(index: int, above: Floats, total: float, params: SamplingParams) -> bool | None:
    """Whether top-p keeps a token, as far as `bounds` [n] of the weights, `total` together, tell.

    None where they do not. True weights lie between bound / EXCESS and bound.
    """
    own = above[index]
    mass = _mass_from(above, own)
    if params.compat != "openai":
        mass -= float(own)  # there the token itself has to fit under p
    if mass * EXCESS < params.top_p * total:
        return True
    ties = np.count_nonzero(above == own) - 1
    return False if mass - ties * float(own) > params.top_p * total * EXCESS else None


def _kept(index: int, weights: Floats, total: float, params: SamplingParams) -> bool:
    """Whether top-p keeps a token, by its weight and all others."""
    least, wanted = weights[index], params.top_p * total
    before = _mass_above(weights, least)
    if params.compat == "openai":
        return bool(before + least <= wanted)
    return bool(before + least * np.count_nonzero(weights[:index] == least) < wanted)


def bounds(logits: Floats, best: float, temperature: float) -> Floats:  # [n] -> [n]
    """What `softmax_weights` are at most, no more than `EXCESS` times too much.

    Powers of 2 with the fraction of the exponent taken linearly, which is how a float32 lies in
    memory (Schraudolph 1999): chords of the exponential function, so never below it. `best` is the
    largest logit.
    """
    places: Floats = logits - np.float32(best)
    places *= np.float32(ONE_OCTAVE / math.log(2) / _clamped(temperature))
    places += np.float32(WEIGHT_ONE)
    if places.min() < 0:  # too little for a float32
        np.maximum(places, 0, out=places)
    return places.astype(np.int32).view(np.float32)


def _clamped(temperature: float) -> float:
    return min(max(temperature, COLDEST), HOTTEST)


def softmax_weights(logits: Floats, temperature: float) -> Floats:  # [n] -> [n]
    """exp(logits / temperature), scaled so that the best has 1."""
    weights: Floats = logits - logits.max()
    # In place: fresh pages for every step would cost more than the arithmetic.
    if temperature != 1:
        weights /= np.float32(_clamped(temperature))
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
    while True:  # quickselect by mass: half of what is left is decided in every round
        half = len(ids) // 2 if len(ids) > SORTED else len(ids)
        order = np.argpartition(strangeness, half - 1) if half < len(ids) else None
        near = slice(None) if order is None else order[:half]
        mass = float(shares[near].sum())
        if order is None or mass >= wanted:
            ids, shares, strangeness = ids[near], shares[near], strangeness[near]
            if len(ids) <= SORTED:
                break
        else:
            inside[ids[near]] = True
            wanted -= mass
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
        above = _mass_above(left, high)
        if above >= wanted:
            narrowed = np.compress(left > high, left)
        else:
            wanted -= above
            within = _mass_above(left, low) - above
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


def _mass_above(weights: Floats, least: np.float32) -> float:
    """The sum of the weights above `least`, without picking them out."""
    return float((weights * (weights > least)).sum())


def _mass_from(weights: Floats, least: np.float32) -> float:
    """The sum of the weights from `least` on, to about 1e-5 of it."""
    return float(np.einsum("i,i->", weights, weights >= least))


def stretches(weights: Floats) -> NDArray[np.float64]:  # [n] -> [ceil(n / STRETCH)]
    """Running sums at the ends of stretches of `STRETCH` weights."""
    sums = np.add.reduceat(weights, _starts(len(weights)))
    return np.cumsum(sums, dtype=np.float64)


def pick(weights: Floats, sums: NDArray[np.float64], uniform: float) -> int:
    """Inverse transform sampling: where the running sum passes `uniform` (0 to 1) of the total.

    `sums` are those of `stretches`; only the stretch that the sum ends in is looked at closely.
    """
    wanted = min(uniform * float(sums[-1]), math.nextafter(float(sums[-1]), 0))
    stretch = int(sums.searchsorted(wanted, side="right"))
    part = weights[stretch * STRETCH : (stretch + 1) * STRETCH]
    before = float(sums[stretch - 1]) if stretch else 0.0
    index = int(part.cumsum(dtype=np.float64).searchsorted(wanted - before, side="right"))
    if index == len(part):  # rounding: the sum is a hair short of the last that can be drawn
        index = int(part.nonzero()[0][-1])
    return stretch * STRETCH + index


@lru_cache(maxsize=8)
def _starts(length: int) -> NDArray[np.intp]:
    return np.arange(0, length, STRETCH)
