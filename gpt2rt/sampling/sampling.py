"""Draws the next token from a row of logits.

Pure functions over one row, and a `Sampler` with the state of one sequence: its earlier tokens and
its random numbers. A draw seldom computes the weights of all tokens (`_rejection_sampled`).

The order of settings is that of Transformers: logit bias, repetition, frequency and presence
penalties, banned tokens; then temperature, top-k, top-p, min-p, typical. OpenAI's `sample.py` has
three of them in the same order, with another rule for top-p (`compat="openai"`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.interface import SHORTLIST
from gpt2rt.errors import BadLogits, InvalidSetting
from gpt2rt.sampling.filters import (
    SORTED,
    SPARSE,
    Floats,
    Ids,
    active,
    candidates,
    chunk_sums,
    clamped,
    pick,
    softmax_weights,
    sum_above,
    sum_from,
)
from gpt2rt.sampling.history import Edits, History
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.sampling.selection import BEST, Draw, Row

DRAWN = 64  # tokens whose random numbers are generated together
SMALL = 0.25  # below this top-p, tokens of small weight are left out before the first try
TRIES = 12  # draws before the exact weights of all tokens are computed
NUMBERS = 2 * TRIES + 1  # random numbers for each token
DEVICE_TRIES = 4  # of them that a device may draw by
ONE_OCTAVE, WEIGHT_ONE = 1 << 23, 127 << 23  # in the bits of a float32: a factor of 2, and 1.0
ROUNDING = 1 + 1e-4  # largest relative error of bounds and of their sums
EXCESS = 2 / (math.e * math.log(2)) * ROUNDING  # largest ratio of a chord of 2**x to 2**x


class Restriction(Protocol):
    """Restricts the tokens that may come next, as `gpt2rt.sampling.grammar.Matcher` does."""

    def mask(self, logits: Floats, left: int | None) -> Floats:
        """`logits` with -inf for tokens that may not come next, if at most `left` may be drawn."""


class Sampler:
    """Draws the tokens of one sequence.

    The random numbers of its n-th token depend only on `seed`, `sample` (the sequence's number) and
    n, not on the batch. They come from Philox, a counter-based generator (Salmon et al. 2011).
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
        self._uniforms: list[NDArray[np.float64]] = []  # `DRAWN` rows each
        self._drawn = 0
        self._on_devices = chosen_on_devices(params)
        self._heat = 1 / clamped(params.temperature)
        self._tries = 0 if params.top_k or not active(params) else DEVICE_TRIES

    @property
    def foreseen(self) -> bool:
        """Whether `next_draw` also says how later tokens are drawn, whatever comes before them, and
        devices can draw them."""
        params = self._params
        listed = params.greedy or params.top_k < SHORTLIST  # of more, a device tells no token
        return self._on_devices and listed and not self._history.edits

    def next_draw(self, ahead: int = 0) -> Draw:
        """How a device should choose the token `ahead` tokens after the next."""
        if not self._on_devices:
            return BEST
        params = self._params
        # What is drawn before a later token would change its logits further.
        changes = self._history.changes() if self._history.edits and not ahead else None
        if params.greedy:
            return BEST if changes is None else BEST._replace(changes=changes)
        numbers = self._numbers(self._drawn + ahead)
        filtered = params.top_k or self._tries
        tries = tuple(numbers[: self._tries].tolist()) if self._tries and changes is None else ()
        return Draw(
            self._heat,
            numbers.item(-1 if filtered else 0),
            params.top_k,
            params.top_p,
            params.min_p,
            changes,
            tries,
        )

    def draw(
        self, logits: Floats | Row, matcher: Restriction | None = None, left: int | None = None
    ) -> int:  # [n_vocab] -> id
        """Draw the next token from logits float32 [n_vocab], which are not changed.

        `matcher` restricts the tokens; `left` is how many may still be drawn (None: no limit).
        Raises `BadLogits` for NaN or +infinity, `InvalidSetting` if the settings leave no token.
        """
        token = self._told(logits) if matcher is None else -1
        if token < 0:
            if self._history.edits:
                logits = self._history.edit(np.array(logits))
            if matcher is not None:
                logits = matcher.mask(np.asarray(logits), left)
            token = choose(logits, self._params, self._numbers(self._drawn).tolist())
        self._drawn += 1
        self._history.take(token)
        return token

    def _told(self, logits: Floats | Row) -> int:
        """The token that a device chose by `next_draw`; -1: it is to be drawn here."""
        if not isinstance(logits, Row) or not self._on_devices:
            return -1
        return -1 if self._history.edits and not logits.changed else logits.chosen

    def edited(self, logits: Floats, tokens: Seq[int]) -> Floats:  # [n_vocab] -> [n_vocab]
        """`logits` after penalties and bans, as if `tokens` were all that was drawn so far."""
        if not self._history.edits:
            return logits
        history = History(self._params, self._edits, self._prompt)
        for token in tokens:
            history.take(token)
        return history.edit(logits.copy())

    def guess(self, logits: Floats | Row, ahead: int) -> int:
        """The token that `draw` would give for `logits` `ahead` tokens after the next.

        Penalties, bans and the constraint are not applied. Since a draft model draws by the same
        random numbers as the model, its tokens are accepted as often as both agree.
        """
        return choose(logits, self._params, self._numbers(self._drawn + ahead).tolist())

    def _numbers(self, n: int) -> NDArray[np.float64]:
        """The random numbers of the n-th token."""
        while n >= DRAWN * len(self._uniforms):
            self._uniforms.append(self._random.random((DRAWN, NUMBERS)))
        numbers: NDArray[np.float64] = self._uniforms[n // DRAWN][n % DRAWN]
        return numbers


def choose(logits: Floats | Row, params: SamplingParams, uniforms: Seq[float]) -> int:
    """Choose a token by `NUMBERS` random numbers in [0, 1), or the best one if `params` are greedy.

    Of a row on a device it is the one that was chosen there, by `Sampler.next_draw`; the row is
    copied only if the device could not tell. Raises `BadLogits`, and `InvalidSetting` if no token
    is left.
    """
    tried = isinstance(logits, Row) and chosen_on_devices(params)
    if isinstance(logits, Row):
        if tried and logits.chosen >= 0:
            return logits.chosen
        logits = np.asarray(logits)
    best = int(np.argmax(logits))  # the first NaN, if there is any
    if logits[best] == -math.inf:
        raise InvalidSetting("no token is left to draw: the settings together rule out every one")
    if not math.isfinite(logits[best]):
        raise BadLogits(f"the model's logits are not finite ({logits[best]} for token {best})")
    if params.greedy:
        return best
    few = 0 < params.top_k < len(logits)
    # The device did not find a token by the first numbers: to try these again would not be random.
    if few or tried or not all(rule.one_by_one for rule in active(params)):
        return _picked(logits, params, uniforms[-1])
    return _rejection_sampled(logits, best, params, uniforms)


def _picked(logits: Floats, params: SamplingParams, uniform: float) -> int:
    ids, weights = candidates(logits, params)
    index = pick(weights, chunk_sums(weights), uniform)
    return index if ids is None else int(ids[index])


def chosen_on_devices(params: SamplingParams) -> bool:
    """Whether devices know the filters of `params`."""
    return params.greedy or (
        params.typical_p == 1 and (params.top_p == 1 or params.compat != "openai")
    )


def _rejection_sampled(
    logits: Floats, best: int, params: SamplingParams, uniforms: Seq[float]
) -> int:
    """Draw a token by rejection sampling, which computes few exact weights.

    Tokens are drawn by upper `bounds` of their weights, which are cheap. A token is accepted with
    probability weight / bound, and only if top-p and min-p keep it, which can mostly be decided
    from the bounds. Tokens with a smaller bound than a token that they leave out are not drawn
    again. The distribution is that of `candidates`, which decide if no try succeeds.
    """
    temperature = clamped(params.temperature)
    weights: Floats | None = None  # of all tokens, computed when needed
    ids: Ids | None = None
    above = bounds(logits, float(logits[best]), temperature)
    sums = chunk_sums(above)
    total = float(sums[-1])
    if params.top_p < SMALL:
        ids, above, sums = _heavy(ids, above, np.float32(0), total, params)
    out = np.float32(0)  # tokens with a smaller bound are left out
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
        if params.top_p < SMALL or weight < params.min_p:  # drawing from fewer tokens pays
            ids, above, sums = _heavy(ids, above, out, total, params)
    return _picked(logits, params, uniforms[-1])


def _heavy(
    ids: Ids | None, above: Floats, out: np.float32, total: float, params: SamplingParams
) -> tuple[Ids, Floats, NDArray[np.float64]]:
    """The tokens that top-p and min-p may keep, their bounds and the chunk sums of these.

    `above` [n] are the bounds of the tokens `ids` (None: all). `out` is the bound of a token that
    was left out. A guess of the least bound in the nucleus is correct if the bounds above it sum to
    more than the nucleus can have.
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
    if len(rest) <= SORTED < len(above) and sums[-1] > 1.5 * enough:  # another, closer guess pays
        return _heavy(ids, rest, out, total, params)
    return ids, rest, sums


def _reached(weights: Floats, wanted: float) -> np.float32:
    """An estimate, rather too low, of the weight at which the sum, largest first, reaches `wanted`.

    It is made from a sample if there are many weights [n]; 0 if the sum stays below.
    """
    if wanted == math.inf:
        return np.float32(0)
    every = SPARSE if len(weights) > SORTED else 1
    sample = np.sort(weights[::every])[::-1]
    place = int(np.searchsorted(np.cumsum(sample, dtype=np.float64) * every, wanted))
    place += 2 * math.isqrt(place) + 8 if every > 1 else 1
    return np.float32(sample[place] if place < len(sample) else 0)


def _in_nucleus(index: int, above: Floats, total: float, params: SamplingParams) -> bool | None:
    """Whether top-p keeps a token, decided by the `bounds` [n], which sum to `total`.

    None: they do not decide it. Weights are between bound / EXCESS and bound.
    """
    own = above[index]
    reached = sum_from(above, own)
    if params.compat != "openai":
        reached -= float(own)  # OpenAI's rule counts the token itself
    if reached * EXCESS < params.top_p * total:
        return True
    ties = np.count_nonzero(above == own) - 1
    return False if reached - ties * float(own) > params.top_p * total * EXCESS else None


def _kept(index: int, weights: Floats, total: float, params: SamplingParams) -> bool:
    """Whether top-p keeps a token, decided by the exact weights [n], which sum to `total`."""
    least, wanted = weights[index], params.top_p * total
    before = sum_above(weights, least)
    if params.compat == "openai":
        return bool(before + least <= wanted)
    return bool(before + least * np.count_nonzero(weights[:index] == least) < wanted)


def bounds(logits: Floats, best: float, temperature: float) -> Floats:  # [n] -> [n]
    """Upper bounds of `softmax_weights`, at most `EXCESS` times as large.

    They are powers of 2, linearly interpolated between whole exponents, as the bits of a float32
    are (Schraudolph 1999); chords of a convex function are never below it. `best` is the largest
    logit.
    """
    places: Floats = logits - np.float32(best)
    places *= np.float32(ONE_OCTAVE / math.log(2) / clamped(temperature))
    places += np.float32(WEIGHT_ONE)
    if places.min() < 0:  # too small for a float32
        np.maximum(places, 0, out=places)
    return places.astype(np.int32).view(np.float32)
