"""The state of a request while its text is generated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.engine.slots import Logits
from gpt2rt.generation.completion import Alternatives, Completion, Piece, Timing
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import FinishReason, StopStrings
from gpt2rt.sampling.largest import largest
from gpt2rt.sampling.sampling import Sampler
from gpt2rt.sampling.selection import Row
from gpt2rt.text.tokenizers import Stream

if TYPE_CHECKING:
    from gpt2rt.generation.beams import Beams
    from gpt2rt.sampling.grammar import Matcher


@dataclass(slots=True, eq=False)
class Task:
    """A request in progress: its tokens and text so far, and why it ended."""

    request: Request
    seed: int
    prompt_tokens: tuple[int, ...]
    room: int | None  # most new tokens that fit the context; None: no limit
    stop_ids: frozenset[int]  # tokens that end this text
    ends: frozenset[int]  # those of them that are the tokenizer's own
    sampler: Sampler
    stream: Stream
    stops: StopStrings
    matcher: Matcher | None
    load_ms: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    beams: Beams | None = None  # a search for the best texts; None: one text is drawn
    found: list[Completion] = field(default_factory=list)  # by the search, the best first
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    score: float | None = None
    prefill_ms: float = 0.0
    started: float = 0.0
    reason: FinishReason | None = None
    stopped_by: str | int | None = None
    most: int | None = field(init=False)  # new tokens; None: no limit
    # Whether its next step may be started before its last token is known here.
    goes_ahead: bool = field(init=False)

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.request.stopping.length, self.room) if limit is not None]
        self.most = min(limits, default=None)
        told = self.matcher is None and not self.request.logprobs
        self.goes_ahead = told and self.sampler.foreseen

    @property
    def slots(self) -> int:
        """How many slots it takes."""
        return 1 if self.beams is None else self.beams.width

    @property
    def all_tokens(self) -> list[int]:
        """The tokens of the prompt and the new ones."""
        return [*self.prompt_tokens, *self.tokens]

    @property
    def left(self) -> int | None:
        """How many tokens may still be drawn; None: no limit."""
        return None if self.most is None else self.most - len(self.tokens)

    def take(self, logits: Logits | Row) -> Piece:
        """Draw a token from logits float32 [n_vocab] and `accept` it.

        Raises `BadLogits`, and `InvalidSetting` if the settings leave no token.
        """
        left = None if self.matcher is None else self.left
        token = self.sampler.draw(logits, self.matcher, left)
        return self.accept(token, logits if self.request.logprobs else None)

    def accept(self, token: int, logits: Logits | Row | None = None) -> Piece:
        """Add a token, and set `reason` if the text ends.

        `logits` float32 [n_vocab] give its log-probability and the alternatives (None: neither is
        computed).
        """
        if token in self.stop_ids:
            self.stopped_by = token
            self.reason = "end_of_text" if token in self.ends else "stop_token"
            return self._piece(self._flushed())
        self.tokens.append(token)
        logprob: float | None = None
        top: Alternatives = ()
        if logits is not None:
            logprob, top = scored(logits, token, self.request.top)
            self.logprobs.append(logprob)
        if self.matcher is not None:
            self.matcher.take(token)
        text = self.stops.push(self.stream.push(token))
        self.reason = self._reason()
        if self.reason is not None:
            text += self._flushed()
        return self._piece(text, token, logprob, top)

    def branch(self) -> Task:
        """A copy with text and tokens of its own; it shares the sampler and the matcher."""
        return replace(
            self,
            stream=self.stream.branch(),
            stops=copy(self.stops),
            tokens=[*self.tokens],
            logprobs=[*self.logprobs],
            text=[*self.text],
        )

    def _piece(
        self,
        text: str,
        token: int | None = None,
        logprob: float | None = None,
        top: Alternatives = (),
    ) -> Piece:
        self.text.append(text)
        return Piece(self.request.sample, text, token, logprob, top)

    def _reason(self) -> FinishReason | None:
        """Why the text ends after the last token; None: it does not."""
        if self.stops.match is not None:
            self.stopped_by = self.stops.match
            return "stop_string"
        if self.matcher is not None and (
            self.matcher.complete or (self.left == 0 and self.matcher.accepting)
        ):
            return "complete"
        length = self.request.stopping.length
        if length is not None and len(self.tokens) >= length:
            return "length"
        return "context" if self.room is not None and len(self.tokens) >= self.room else None

    def _flushed(self) -> str:
        """The text held back at the end: an incomplete character, part of a stop string."""
        if self.stops.match is not None:
            return ""
        text = self.stops.push(self.stream.close())
        if self.stops.match is not None:  # the replacement character completed a stop string
            self.reason, self.stopped_by = "stop_string", self.stops.match
        return text + self.stops.close()

    def completion(self) -> Completion:
        """The completion of this task, which must have a `reason`."""
        assert self.reason is not None
        return Completion(
            prompt=self.request.prompt,
            text="".join(self.text),
            prompt_tokens=self.prompt_tokens,
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs) if self.request.logprobs else None,
            finish_reason=self.reason,
            stopped_by=self.stopped_by,
            seed=self.seed,
            sample=self.request.sample,
            cached_tokens=self.cached,
            drafted=self.drafted,
            accepted=self.accepted,
            score=self.score,
            timing=Timing(self.load_ms, self.prefill_ms, now() - self.started - self.prefill_ms),
        )


def scored(logits: Logits | Row, token: int, count: int) -> tuple[float, Alternatives]:
    """The log-probability of a token, and the `count` likeliest ones with theirs."""
    if isinstance(logits, Row) and (found := logits.scored(token, count)) is not None:
        logprob, ids, others = found
        return float(logprob), tuple(zip(ids.tolist(), others.tolist(), strict=True))
    row = np.asarray(logits)
    best: list[int] = largest(row, count).tolist()
    own, *rest = logprobs_of(row, [token, *best])
    return own, tuple(zip(best, rest, strict=True))


def logprobs_of(logits: Logits, tokens: Sequence[int]) -> list[float]:
    """The log-probabilities, in nats, of tokens by logits float32 [n_vocab]."""
    highest = float(logits.max())
    total = np.exp(logits - np.float32(highest)).sum(dtype=np.float64)
    return [float(logits[token]) - highest - float(np.log(total)) for token in tokens]


def now() -> float:
    """The time of a monotonic clock, in milliseconds."""
    return time.perf_counter() * 1e3
