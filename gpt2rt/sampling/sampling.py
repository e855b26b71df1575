"""From logits to the next token: edits by what came before, candidates, the draw.

Pure functions over one row of logits, and a `Sampler` that keeps what one sequence needs: what it
has said, and its random numbers. Edits touch only the tokens they are about, and a draw seldom
needs to know all that may be drawn (`gpt2rt.sampling.filters`).

The order is that of Transformers: logit bias, repetition, frequency and presence penalties, banned
tokens; then temperature, top-k, top-p, min-p, typical. OpenAI's `sample.py` has three of them, in
the same order, and another rule for top-p (`compat="openai"`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import BadLogits
from gpt2rt.sampling.filters import (
    SORTED,
    SPARSE,
    Floats,
    Ids,
    active,
    candidates,
    chunk_sums,
    clamped,
    filtered,
    pick,
    softmax_weights,
    sum_above,
    sum_from,
)
from gpt2rt.sampling.history import Edits, History
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.sampling.selection import Draw, Row

DRAWN = 64  # tokens whose random numbers are made at once
SMALL = 0.25  # top-p for which a first try from all the tokens seldom pays
TRIES = 12  # draws before what may be drawn is worked out
NUMBERS = 2 * TRIES + 1  # random numbers a token
ONE_OCTAVE, WEIGHT_ONE = 1 << 23, 127 << 23  # in the bits of a float32: twice as much, and 1.0
ROUNDING = 1 + 1e-4  # of bounds and of their sums, at most
EXCESS = 2 / (math.e * math.log(2)) * ROUNDING  # how far a chord of 2**x is above it, at most


class Restriction(Protocol):
    """What may come next, as a constraint sees it (`gpt2rt.sampling.grammar.Matcher`)."""

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
        return Draw(1 / clamped(self._params.temperature), number)

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
    """The token that random numbers in 0 to 1 fall on, `NUMBERS` of them; the best, a greedy
    choice, takes none. Raises `BadLogits`.

    Of a row on a device no more is fetched than it takes.
    """
    if isinstance(logits, Row):
        token = choose_selected(logits, params, uniforms)
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
    few = 0 < params.top_k < len(logits)
    if few or not all(rule.one_by_one for rule in active(params)):
        return _picked(logits, params, uniforms[-1])
    return _tried(logits, best, params, uniforms)


def _picked(logits: Floats, params: SamplingParams, uniform: float) -> int:
    ids, weights = candidates(logits, params)
    index = pick(weights, chunk_sums(weights), uniform)
    return index if ids is None else int(ids[index])


def choose_selected(row: Row, params: SamplingParams, uniforms: Seq[float]) -> int | None:
    """As `choose`, from what a device selected; None where that cannot tell."""
    if not (math.isfinite(row.logits[0]) and math.isfinite(row.normaliser)):
        return None
    if params.greedy:
        return int(row.ids[0])
    if 0 < params.top_k < row.n_vocab:
        return _from_top_k(row, params, uniforms[-1])
    rules = active(params)
    if not rules:
        return row.drawn
    one_by_one = all(rule.one_by_one for rule in rules)
    return _from_nucleus(row, params, uniforms[-1]) if one_by_one else None


def _from_top_k(row: Row, params: SamplingParams, uniform: float) -> int | None:
    least = row.logits[min(params.top_k, len(row.ids)) - 1]
    if row.logits[-1] == least and not row.whole:
        return None  # the k-th may have ties that were not selected
    count = int(np.count_nonzero(row.logits >= least))
    order = np.argsort(row.ids[:count])
    weights = softmax_weights(row.logits[:count][order], params.temperature)
    kept = filtered(weights, params)
    return int(row.ids[order[pick(kept, chunk_sums(kept), uniform)]])


def _from_nucleus(row: Row, params: SamplingParams, uniform: float) -> int | None:
    """A token of those that top-p and min-p keep, where all of these were selected."""
    weights = softmax_weights(row.logits, params.temperature)
    count = len(weights)
    if params.top_p < 1:
        sums = np.cumsum(weights, dtype=np.float64)
        wanted = params.top_p * row.normaliser
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
    return int(row.ids[order[pick(kept, chunk_sums(kept), uniform)]])


def _tried(logits: Floats, best: int, params: SamplingParams, uniforms: Seq[float]) -> int:
    """A draw for which most weights are never worked out (rejection sampling).

    Tokens are drawn by what their weights are at most. One is taken as often as its weight is of
    that, and only if top-p and min-p keep it, for which it need not be known what else they keep;
    the less likely than one that they leave out are no longer drawn. So a token comes as often as
    among `candidates`, which have the last word where no try succeeds.
    """
    temperature = clamped(params.temperature)
    weights: Floats | None = None  # of all tokens, once they are needed
    ids: Ids | None = None
    above = bounds(logits, float(logits[best]), temperature)
    sums = chunk_sums(above)
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
    """Of tokens and their bounds [n] those that top-p and min-p may keep, and their chunks.

    `out` is the bound of one left out. Where the nucleus ends at most is guessed; that what is
    above has more than the nucleus, whatever the weights are, confirms it.
    """
    least = max(out, np.float32(params.min_p / ROUNDING))
    enough = params.top_p * total * EXCESS if params.top_p < 1 else math.inf
    guess = max(least, _reached(above, enough))
    heavy = np.flatnonzero(above >= guess)
    rest = above[heavy]
    sums = chunk_sums(rest)
    if guess > least and sums[-1] <= enough:
        heavy = np.flatnonzero(above >= least)
        rest = above[heavy]
        sums = chunk_sums(rest)
    ids = heavy if ids is None else ids[heavy]
    if len(rest) <= SORTED < len(above) and sums[-1] > 1.5 * enough:  # a closer guess pays
        return _heavy(ids, rest, out, total, params)
    return ids, rest, sums


def _reached(weights: Floats, wanted: float) -> np.float32:
    """About where the sum from the largest down reaches `wanted`, rather below; by a sample of many
    weights [n]. 0 where it never does."""
    if wanted == math.inf:
        return np.float32(0)
    every = SPARSE if len(weights) > SORTED else 1
    sample = np.sort(weights[::every])[::-1]
    place = int(np.searchsorted(np.cumsum(sample, dtype=np.float64) * every, wanted))
    place += 2 * math.isqrt(place) + 8 if every > 1 else 1
    return np.float32(sample[place] if place < len(sample) else 0)


def _in_nucleus(index: int, above: Floats, total: float, params: SamplingParams) -> bool | None:
    """Whether top-p keeps a token, as far as `bounds` [n] of the weights, `total` together, tell.

    None where they do not. True weights lie between bound / EXCESS and bound.
    """
    own = above[index]
    reached = sum_from(above, own)
    if params.compat != "openai":
        reached -= float(own)  # there the token itself has to fit under p
    if reached * EXCESS < params.top_p * total:
        return True
    ties = np.count_nonzero(above == own) - 1
    return False if reached - ties * float(own) > params.top_p * total * EXCESS else None


def _kept(index: int, weights: Floats, total: float, params: SamplingParams) -> bool:
    """Whether top-p keeps a token, by its weight and all others."""
    least, wanted = weights[index], params.top_p * total
    before = sum_above(weights, least)
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
    places *= np.float32(ONE_OCTAVE / math.log(2) / clamped(temperature))
    places += np.float32(WEIGHT_ONE)
    if places.min() < 0:  # too little for a float32
        np.maximum(places, 0, out=places)
    return places.astype(np.int32).view(np.float32)
