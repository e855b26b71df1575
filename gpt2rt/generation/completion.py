"""The results of a request: a completion, and pieces of its text as they are generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.text.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds for loading the model, and for the prefill and the decode steps of a sample."""

    load_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The text generated for a prompt, its tokens, and how they came about.

    `prompt` is None for an unconditional sample. `tokens` are the new ids; `text` is their text, up
    to the stop string if one ended it. An `<|endoftext|>` or stop token that ended the text is in
    neither. `stopped_by` is that token or string. `logprobs` (in nats, None if not requested) are
    the model's own, before temperature and all other settings. The first `cached_tokens` of the
    prompt came from the prefix cache. A draft proposed `drafted` tokens, `accepted` of which were
    right. `seed` and `sample` repeat the completion. `score` is that of a beam search
    (`gpt2rt.generation.beams`), otherwise None.
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

    `token` and `logprob` are None if the token ended the text. The last piece of a sample has the
    `completion`, or the error as `failure`.
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
