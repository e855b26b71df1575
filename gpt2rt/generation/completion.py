"""The results of a request: a completion, and pieces of its text as they are generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.text.prompts import Prompt

Alternatives = tuple[tuple[int, float], ...]  # ids with log-probabilities in nats, best first


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of a sample, in milliseconds.

    Attributes:
        load_ms: loading the model.
        prefill_ms: until the prompt of this sample was read, beside the steps of others.
        decode_ms: the steps of this sample after that.
    """

    load_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The text generated for a prompt, its tokens, and how they came about.

    Attributes:
        prompt: the prompt as it was given; None for an unconditional sample.
        text: the text of `tokens`, up to the stop string if one ended it.
        prompt_tokens: the ids that the model read for the prompt.
        tokens: the new ids, without an `<|endoftext|>` or stop token that ended the text.
        logprobs: the log-probabilities of `tokens` in nats, None if not requested: the model's own,
            before temperature and all other settings.
        finish_reason: why the text ended.
        stopped_by: the stop token or string that ended it, if one did.
        seed: the seed; with `sample` it repeats the completion.
        sample: the number of the sample.
        cached_tokens: tokens of the prompt whose keys and values came from the prefix cache.
        drafted: tokens that a draft proposed.
        accepted: proposed tokens that were right.
        score: the score of a beam search (see `Beams`), otherwise None.
        timing: how long it took.
    """

    prompt: Prompt
    text: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    stopped_by: str | int | None
    seed: int
    sample: int
    cached_tokens: int
    drafted: int
    accepted: int
    score: float | None
    timing: Timing


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of one sample: its token, and the text that is complete now (maybe empty).

    Attributes:
        sample: the number of the sample.
        text: the text that this step completes, in whole characters.
        token: the id; None if the token ended the text.
        logprob: the token's log-probability in nats, if requested.
        top: the likeliest tokens, if requested: ids with their log-probabilities in nats, best
            first. These are the model's own, before temperature and all other settings.
        completion: the completion, in the last piece of a sample.
        failure: the error that ended the sample, in its last piece.
    """

    sample: int
    text: str
    token: int | None = None
    logprob: float | None = None
    top: Alternatives = ()
    completion: Completion | None = None
    failure: Gpt2rtError | None = None

    @property
    def last(self) -> bool:
        """Whether this is the last piece of its sample."""
        return self.completion is not None or self.failure is not None


class _Fallible(Protocol):
    @property
    def failure(self) -> Gpt2rtError | None: ...


Item = TypeVar("Item", bound=_Fallible)


def raise_failures(items: Iterable[Item]) -> Iterator[Item]:
    """The same pieces, or other items with a `failure`; raises the first failure."""
    for item in items:
        if item.failure is not None:
            raise item.failure
        yield item
