"""The results of a request: a completion, and pieces of its text as they are generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.text.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a sample took, in milliseconds.

    Attributes:
        load_ms: loading the model.
        prefill_ms: reading this sample's prompt.
        decode_ms: this sample's steps after it.
    """

    load_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The text generated for a prompt, its tokens, and how they came about.

    Attributes:
        prompt: as it was given; None for an unconditional sample.
        text: what `tokens` decode to, up to a stop string where one ended it.
        prompt_tokens: the ids that were read.
        tokens: the new ids. An `<|endoftext|>` or stop token that ended the text is none of them.
        logprobs: natural log-probabilities of `tokens`, where asked for: the model's own, before
            temperature and all else.
        finish_reason: why the text ended.
        stopped_by: the stop token or string that ended it.
        seed: repeats the sample, with `sample`.
        sample: its number.
        cached_tokens: how many tokens of the prompt were read for an earlier one.
        drafted: how many tokens a draft proposed.
        accepted: how many of these were right.
        score: that of a beam search (see `Beams`).
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
        text: what this step completes; whole characters only.
        token: its id; None for one that ended the text.
        logprob: the token's natural log-probability, where asked for.
        completion: the whole, with the last piece of a sample.
        failure: what made the sample fail, with its last piece.
    """

    sample: int
    text: str
    token: int | None = None
    logprob: float | None = None
    completion: Completion | None = None
    failure: Gpt2rtError | None = None

    @property
    def last(self) -> bool:
        """Whether this is the last piece of its sample."""
        return self.completion is not None or self.failure is not None


def raise_failures(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same pieces; raises the failure of the first sample that failed."""
    for piece in pieces:
        if piece.failure is not None:
            raise piece.failure
        yield piece
