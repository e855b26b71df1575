"""A request for one text, with all its settings."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2rt.checks import check_kind, check_whole, whole
from gpt2rt.errors import InvalidSetting
from gpt2rt.generation.stopping import Stopping
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.text.prompts import Prompt, Truncate, check_prompt


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one text.

    Raises `InvalidSetting` for settings that contradict each other, `BadText` for a prompt that is
    neither text nor ids.

    Attributes:
        prompt: a text or token ids; None begins a new text, after `<|endoftext|>`.
        params: how tokens are drawn.
        stopping: when the text ends.
        constraint: a format that the text has to match.
        truncate: the side, "left" or "right", at which a prompt that is too long is cut; None: such
            a prompt is an error.
        sample: a number that, with the seed of `params`, determines the random numbers.
        logprobs: whether to return each token's log-probability.
        top: how many of the likeliest tokens each piece names (`Piece.top`); it implies `logprobs`.
        special: whether control tokens in the prompt are tokens or text (see
            `TextTokenizer.encode`).
    """

    prompt: Prompt = None
    params: SamplingParams = SamplingParams()
    stopping: Stopping = Stopping()
    constraint: Constraint | None = None
    truncate: Truncate = None
    sample: int = 0
    logprobs: bool = False
    top: int = 0
    special: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", check_prompt(self.prompt))
        check_kind("params", self.params, SamplingParams)
        check_kind("stopping", self.stopping, Stopping)
        check_kind("constraint", self.constraint, Constraint, optional=True)
        check_kind("logprobs", self.logprobs, bool)
        check_kind("special", self.special, bool, optional=True)
        check_whole("top", self.top, 0)
        if self.top:
            object.__setattr__(self, "logprobs", True)
        length = self.stopping.length
        if length is not None and self.params.min_length > length:
            raise InvalidSetting(
                f"min_length {self.params.min_length} is more than the length, {length}",
                "min_length",
            )
        if self.truncate not in (None, "left", "right"):
            raise InvalidSetting(f"truncate must be left or right, not {self.truncate!r}")
        if not whole(self.sample) or not 0 <= self.sample < 1 << 64:
            raise InvalidSetting(f"sample must be 0 to 2**64 - 1, not {self.sample!r}")
