"""A request on its way to a completion: what it has said, and whether that ends it."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.engine.slots import Logits
from gpt2rt.generation.completion import Completion, Piece, Timing
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import FinishReason, StopStrings
from gpt2rt.sampling.sampling import Sampler
from gpt2rt.sampling.selection import Row
from gpt2rt.text.tokenizers import Stream

if TYPE_CHECKING:
    from gpt2rt.sampling.grammar import Matcher


@dataclass(slots=True, eq=False)
class Task:
    """One request on its way to a completion."""

    request: Request
    seed: int
    prompt_tokens: tuple[int, ...]
    room: int | None  # new tokens that the context allows; None: no limit
    stop_ids: frozenset[int]  # tokens that end this text
    ends: frozenset[int]  # those of them that the tokenizer has for it
    sampler: Sampler
    stream: Stream
    stops: StopStrings
    matcher: Matcher | None
    load_ms: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    score: float | None = None
    prefill_ms: float = 0.0
    started: float = 0.0
    reason: FinishReason | None = None
    stopped_by: str | int | None = None

    @property
    def known(self) -> list[int]:
        """All tokens so far."""
        return [*self.prompt_tokens, *self.tokens]

    @property
    def left(self) -> int | None:
        """New tokens that may still come."""
        limits = [limit for limit in (self.request.stopping.length, self.room) if limit is not None]
        return min(limits) - len(self.tokens) if limits else None

    def take(self, logits: Logits | Row) -> Piece:
        """Draw a token from the logits [n_vocab] and see what comes of it; sets `reason`."""
        token = self.sampler.draw(logits, self.matcher, self.left)
        return self.accept(token, logits if self.request.logprobs else None)

    def accept(self, token: int, logits: Logits | Row | None = None) -> Piece:
        """Go on by `token`, which came of `logits`; sets `reason` where it ends the text."""
        if token in self.stop_ids:
            self.stopped_by = token
            self.reason = "end_of_text" if token in self.ends else "stop_token"
            return self._piece(self._flushed())
        self.tokens.append(token)
        logprob = None
        if logits is not None:
            logprob = logprob_of(logits, token)
            self.logprobs.append(logprob)
        if self.matcher is not None:
            self.matcher.take(token)
        text = self.stops.push(self.stream.push(token))
        self.reason = self._reason()
        if self.reason is not None:
            text += self._flushed()
        return self._piece(text, token, logprob)

    def branch(self) -> Task:
        """The same text, to go on by itself from here."""
        return replace(
            self,
            stream=self.stream.branch(),
            stops=copy(self.stops),
            tokens=[*self.tokens],
            logprobs=[*self.logprobs],
            text=[*self.text],
        )

    def _piece(self, text: str, token: int | None = None, logprob: float | None = None) -> Piece:
        self.text.append(text)
        return Piece(self.request.sample, text, token, logprob)

    def _reason(self) -> FinishReason | None:
        """Why the text ends with the token just taken; None where it goes on."""
        if self.stops.found is not None:
            self.stopped_by = self.stops.found
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
        """What was held back: half a character, the beginning of a stop string."""
        if self.stops.found is not None:
            return ""
        text = self.stops.push(self.stream.close())
        if self.stops.found is not None:  # half a character was what the stop string asks for
            self.reason, self.stopped_by = "stop_string", self.stops.found
        return text + self.stops.close()

    def completion(self) -> Completion:
        """The whole, once there is a `reason`."""
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


def logprob_of(row: Logits | Row, token: int) -> float:
    """The natural log-probability of a token, [n_vocab] -> nats."""
    logits = np.asarray(row)
    largest = float(logits.max())
    total = np.exp(logits - np.float32(largest)).sum(dtype=np.float64)
    return float(logits[token]) - largest - float(np.log(total))


def now() -> float:
    """Milliseconds of a clock that only runs forward."""
    return time.perf_counter() * 1e3
