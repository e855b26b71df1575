"""Speculative decoding: a cheap draft proposes tokens, which the model verifies in one step.

The method is that of Leviathan et al. 2023 and Chen et al. 2023, with another rule of acceptance:
at every position a token is drawn from the model's own distribution by that position's random
number, and a proposal is accepted if it is this token. So a text is the same with any draft or
none, not only equal in distribution. The draft draws by the same random numbers, so it agrees
often. It takes kernels whose logits are the same in a step over several tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Literal, Protocol, runtime_checkable

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import TOKENIZER_FILES
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.engine.slots import Part, Slots
from gpt2rt.errors import InvalidSetting
from gpt2rt.sampling.sampling import Sampler

LOOKUP: Literal["lookup"] = "lookup"  # names the draft `Lookup`
LONGEST = 15  # most tokens proposed at once
INITIAL_ACCEPTANCE = 0.7  # assumed acceptance rate before the first proposal
AVERAGED = 16  # proposals over which the acceptance rate is averaged, roughly
PAUSE = 48  # tokens without proposals after a draft did not pay

# The time of a step over m tokens is STEP_BASE + STEP_TOKEN * m steps over one token: measured, see
# bench/RESULTS.md.
STEP_BASE, STEP_TOKEN = 0.85, 0.23
# A step of a draft model takes longer than the sizes of the models suggest, since it runs between
# steps of the other (measured).
DRAFT_OVERHEAD = 1.25


class Draft(Protocol):
    """Proposes tokens that may follow a sequence."""

    cost: float  # the time of proposing a token, in decode steps of the model

    def propose(self, tokens: Seq[int], count: int, sampler: Sampler) -> list[int]:
        """At most `count` tokens that may follow `tokens`, maybe none.

        `sampler` is that of the sequence: its random numbers decide what will be drawn.
        """


class Lookup:
    """Proposes what followed the last tokens where the text had them before.

    This is prompt lookup decoding (Saxena 2023).
    """

    cost = 0.0
    LENGTHS = (4, 3, 2)  # lengths of n-grams that are looked up, in this order

    def __init__(self) -> None:
        self._after: dict[
            tuple[int, ...], int
        ] = {}  # n-gram -> the position after its last occurrence
        self._indexed = 0

    def propose(self, tokens: Seq[int], count: int, sampler: Sampler) -> list[int]:
        self._index(tokens)
        for n in self.LENGTHS:
            end = self._after.get(tuple(tokens[-n:]))
            if end is not None:
                return _continued(tokens, end, count)
        return []

    def _index(self, tokens: Seq[int]) -> None:
        """Index every n-gram but the last, which would find itself."""
        for end in range(max(self._indexed, 1), len(tokens)):
            for n in self.LENGTHS:
                if n <= end:
                    self._after[tuple(tokens[end - n : end])] = end
        self._indexed = len(tokens)


def _continued(tokens: Seq[int], start: int, count: int) -> list[int]:
    """`count` tokens from `start` on; at the end of the text they repeat from `start`."""
    period = len(tokens) - start
    return [tokens[start + i % period] for i in range(count)]


class SmallerModel:
    """Proposes what a smaller model with the same tokenizer generates, in a slot of its own.

    `cost` is as in `Draft`.
    """

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
        part = Part(0, known, tokens[known:])
        proposed: list[int] = []
        while True:
            ahead = len(proposed)
            rows = self._slots.step([part], [sampler.next_draw(ahead)])
            self._read[part.start :] = part.tokens
            proposed.append(sampler.guess(rows[0], ahead))
            if len(proposed) == count:
                return proposed
            part = Part(0, part.end, proposed[-1:])

    def _common(self, tokens: Seq[int]) -> int:
        """The number of tokens in the slot that are still correct.

        It is less than all of `tokens`, so that there are logits after the last one.
        """
        most = min(len(self._read), len(tokens) - 1)
        wrong = (i for i in range(most) if self._read[i] != tokens[i])
        return next(wrong, most)


MakeDraft = Callable[[], Draft]  # makes the draft of one sequence


@runtime_checkable
class DraftModel(Protocol):
    """A loaded model that can draft, such as a `GPT2`."""

    bundle: Bundle

    def new_slots(self, count: int) -> Slots:
        """Slots for `count` sequences."""


def draft_maker(own: Bundle, draft: DraftModel | Literal["lookup"] | None) -> MakeDraft | None:
    """The function that makes a draft for a sequence of the model of `own`; None: no draft.

    Raises `InvalidSetting` if `draft` is none of these, or a model with another tokenizer.
    """
    if draft is None:
        return None
    if draft == LOOKUP:
        return Lookup
    if not isinstance(draft, DraftModel):
        raise InvalidSetting(f'draft is a GPT2, "{LOOKUP}" or None, not {draft!r:.60}')
    smaller, new_slots = draft.bundle, draft.new_slots
    files, others = own.manifest.files, smaller.manifest.files
    if any(files.get(name) != others.get(name) for name in TOKENIZER_FILES):
        names = f"{smaller.name} cannot draft for {own.name}"
        raise InvalidSetting(f"{names}: it has another tokenizer")
    # Steps take as long as reading the weights does.
    cost = DRAFT_OVERHEAD * others[WEIGHTS].bytes / files[WEIGHTS].bytes
    return lambda: SmallerModel(new_slots(1), smaller.manifest.hparams.n_ctx, cost)


class DraftLength:
    """Chooses how many tokens to propose, by the acceptance rate of recent proposals.

    It does not measure time, so that runs are repeatable.
    """

    def __init__(self, cost: float) -> None:
        self._cost = cost
        self._acceptance = INITIAL_ACCEPTANCE
        self._pause = 0

    def choose(self, most: int) -> int:
        """The number of tokens to propose now, at most `most`; 0 is a plain decode step."""
        if self._pause > 0:
            self._pause -= 1
            return 0
        best = max(
            range(min(most, LONGEST) + 1),
            key=lambda n: self._speedup(n, self._acceptance),
            default=0,
        )
        if best == 0 and most > 0:
            self._pause = PAUSE
            self._acceptance = max(self._acceptance, self._break_even())
        return best

    def record(self, proposed: int, accepted: int) -> None:
        """Update the acceptance rate: the first `accepted` of `proposed` tokens were right."""
        for right in [1.0] * accepted + [0.0] * (accepted < proposed):
            self._acceptance += (right - self._acceptance) / AVERAGED

    def _speedup(self, count: int, acceptance: float) -> float:
        """The expected tokens in the time of a plain step, if `count` are proposed."""
        if count == 0:
            return 1.0
        tokens = sum(acceptance**n for n in range(count + 1))
        return tokens / (STEP_BASE + STEP_TOKEN * (count + 1) + self._cost * count)

    def _break_even(self) -> float:
        """The least acceptance rate, in steps of 0.02, at which proposing pays; at most 1."""
        rates = (n / 50 for n in range(50))
        pays = (r for r in rates if any(self._speedup(n, r) > 1 for n in range(1, LONGEST + 1)))
        return next(pays, 1.0)
