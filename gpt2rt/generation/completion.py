"""What the model makes of a request: pieces as they come, and the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.text.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: loading the model, this sample's prefill, this sample's steps after it."""

    load_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model made of one prompt.

    `prompt` is None for an unconditional sample. `tokens` are the new ids; `text` is what they
    decode to, up to a stop string where one ended it. An `<|endoftext|>` or stop token that ended
    the text is in neither. `stopped_by` is that token or string. `logprobs` (natural, where asked
    for) are the model's own, before temperature and all else. `cached_tokens` of the prompt were
    read for an earlier one; a draft proposed `drafted` tokens, of which `accepted` were right.
    `seed` and `sample` repeat it. `score` is that of a beam search (`gpt2rt.generation.beams`).
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
    """A step of one sample: its token, the text that is ready now (maybe none).

    `token` is None, like `logprob`, for one that ended the text. The last piece of a sample has the
    whole, or what made it fail.
    """

    sample: int
    text: str
    token: int | None = None
    logprob: float | None = None
    completion: Completion | None = None
    failure: Gpt2rtError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing more comes of its sample."""
        return self.completion is not None or self.failure is not None


def raised(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, or the failure of the first sample that fails."""
    for piece in pieces:
        if piece.failure is not None:
            raise piece.failure
        yield piece
