"""Speculative decoding: a cheap draft proposes tokens, the model reads them all in one step.

Of what the model reads, the tokens that it would have drawn itself are kept (Leviathan et al.
2023, Chen et al. 2023). gpt2rt draws at every position from the model's own distribution, with that
position's own random number, and goes on as long as draft and draw agree: so a text is the same
with any draft and with none, not only equal in distribution. The draft guesses with the same random
numbers, which lets it agree often.

Reading several tokens goes through another kernel than reading one: in float32 the logits differ by
about 2e-6, in int8 by up to a tenth of their deviation (bench/RESULTS.md), so that a near tie may
fall otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from gpt2rt.engine.slots import Slots
from gpt2rt.sampling.sampling import Sampler

LONGEST = 15  # tokens proposed at once
HOPE = 0.7  # how often a proposal is thought to be right before any was tried
MEMORY = 16  # proposals that the estimate reaches back, about
TRY_AGAIN = 48  # tokens after which a draft that did not pay is tried once more

# What a step over m tokens costs, in steps over one: measured, bench/RESULTS.md.
STEP_BASE, STEP_TOKEN = 0.9, 0.125


class Draft(Protocol):
    """Proposes how a sequence goes on."""

    cost: float  # of a proposed token, in plain steps of the model

    def propose(self, tokens: Seq[int], count: int, sampler: Sampler) -> list[int]:
        """At most `count` tokens that may follow `tokens`; none where it has no idea."""


class Lookup:
    """What followed the last time the text had these words (prompt look-up, Saxena 2023)."""

    cost = 0.0
    LENGTHS = (4, 3, 2)  # tokens that have to be the same, most first

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where it last ended
        self._indexed = 0

    def propose(self, tokens: Seq[int], count: int, sampler: Sampler) -> list[int]:
        self._index(tokens)
        for n in self.LENGTHS:
            end = self._after.get(tuple(tokens[-n:]))
            if end is not None:
                return _continued(tokens, end, count)
        return []

    def _index(self, tokens: Seq[int]) -> None:
        """Note every n-gram but the last, which would only find itself."""
        for end in range(max(self._indexed, 1), len(tokens)):
            for n in self.LENGTHS:
                if n <= end:
                    self._after[tuple(tokens[end - n : end])] = end
        self._indexed = len(tokens)


def _continued(tokens: Seq[int], start: int, count: int) -> list[int]:
    """`count` tokens from `start` on; where the text ends they go round, as repeated text does."""
    period = len(tokens) - start
    return [tokens[start + i % period] for i in range(count)]


class SmallerModel:
    """A smaller model of the same tokenizer, in a slot of its own."""

    def __init__(self, slots: Slots, n_ctx: int, cost: float) -> None:
        self.cost = cost
        self._slots = slots
        self._n_ctx = n_ctx
        self._read: list[int] = []

    def propose(self, tokens: Seq[int], count: int, sampler: Sampler) -> list[int]:
        count = min(count, self._n_ctx - len(tokens))
        if count < 1:
            return []
        known = self._common(tokens)
        logits = self._slots.extend(0, known, tokens[known:])
        self._read[known:] = tokens[known:]
        proposed = [sampler.guess(logits[0], 0)]
        while (ahead := len(proposed)) < count:
            draws = [sampler.next_draw(ahead)]
            rows = self._slots.advance([len(self._read)], proposed[-1:], draws)
            self._read.append(proposed[-1])
            proposed.append(sampler.guess(rows[0], ahead))
        return proposed

    def _common(self, tokens: Seq[int]) -> int:
        """How many tokens of the last round still stand; the last of `tokens` is always read."""
        most = min(len(self._read), len(tokens) - 1)
        wrong = (i for i in range(most) if self._read[i] != tokens[i])
        return next(wrong, most)


class Pace:
    """How many tokens to propose: as many as pay, by how often proposals were right of late.

    Deliberately blind to the clock, so that a run can be repeated.
    """

    def __init__(self, cost: float) -> None:
        self._cost = cost
        self._right = HOPE
        self._pause = 0

    def count(self, most: int) -> int:
        """Tokens to propose now, at most `most`; 0 for a plain step."""
        if self._pause > 0:
            self._pause -= 1
            return 0
        best = max(range(min(most, LONGEST) + 1), key=self._gain, default=0)
        if best == 0 and most > 0:
            self._pause = TRY_AGAIN
            self._right = max(self._right, self._break_even())
        return best

    def learn(self, proposed: int, accepted: int) -> None:
        """Of `proposed` tokens the first `accepted` were right."""
        for right in [1.0] * accepted + [0.0] * (accepted < proposed):
            self._right += (right - self._right) / MEMORY

    def _gain(self, count: int) -> float:
        """Tokens for the price of one, when `count` are proposed."""
        if count == 0:
            return 1.0
        tokens = sum(self._right**n for n in range(count + 1))
        return tokens / (STEP_BASE + STEP_TOKEN * (count + 1) + self._cost * count)

    def _break_even(self) -> float:
        """The least share of right proposals at which proposing pays."""
        before, shares = self._right, [n / 50 for n in range(51)]
        for share in shares:
            self._right = share
            if max(self._gain(n) for n in range(1, LONGEST + 1)) > 1:
                break
        found, self._right = self._right, before
        return found
