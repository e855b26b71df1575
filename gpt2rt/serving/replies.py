"""The answer to a request for texts, completions or chat: whole, or as a stream of events.

Both endpoints return what `answer` makes; how a choice looks in each is in its `ReplyForm`.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import aclosing
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Literal, NotRequired

from fastapi import Request as HttpRequest
from fastapi import Response
from typing_extensions import TypedDict

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.generation.completion import Completion, Piece, Timing
from gpt2rt.generation.request import Request
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.serving.ascii_json import ascii_json, large_json
from gpt2rt.serving.bodies import DrawingBody
from gpt2rt.serving.choices import Choice, ChoiceEvents
from gpt2rt.serving.events import EventStream, event, while_there
from gpt2rt.serving.requests import WantedTexts
from gpt2rt.serving.service import Service

DIGITS = 12  # of a bundle's digest: enough to tell weights apart


class CachedTokens(TypedDict):
    """Tokens of prompts whose keys and values were there from earlier ones."""

    cached_tokens: int


class Usage(TypedDict):
    """The numbers of tokens of a request; a prompt counts once, however many texts it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class StopDetails(TypedDict):
    """Why a text ended, in gpt2rt's words, and the stop text or token that ended it."""

    reason: str
    by: str | int | None


class Envelope(TypedDict):
    """What every answer and every event has; `seed` repeats the texts."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    seed: int


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """How the answers of an endpoint look.

    `prefix` is that of their ids; `whole` and `part` are the `object` of an answer and of an event;
    `choice` makes choice number i, which continues prompt number j.
    """

    prefix: str
    whole: str
    part: str
    choice: Callable[[int, int], Choice]


@dataclass
class Reply:
    """The texts of one HTTP request, while they are drawn and when they are."""

    service: Service
    model: AsyncGPT2
    form: ReplyForm
    wanted: WantedTexts
    body: DrawingBody
    params: SamplingParams
    owner: str
    began: float
    completions: dict[int, Completion] = field(default_factory=dict)
    drawn: int = 0
    id: str = field(default_factory=lambda: token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._waited, self._last = self.service.metrics.first_token, self.began

    async def whole(self) -> bytes:
        """The answer as one JSON object."""
        pieces: list[list[Piece]] = [[] for _ in range(self.wanted.count)]
        async with aclosing(self._run()) as steps:
            async for step in steps:
                self._count(step)
                for piece in step:
                    pieces[piece.sample].append(piece)
        return await self.model.aside(self._told, pieces)  # a megabyte of numbers takes long

    def _told(self, pieces: Seq[Seq[Piece]]) -> bytes:
        choices = []
        for index, sample in enumerate(self._told_samples()):
            choice = self.form.choice(index, sample // self.wanted.best_of)
            choices.append(choice.told([*choice.before, *pieces[sample]]))
        envelope = self._envelope(self.form.whole)
        return large_json({**envelope, "choices": choices, "usage": self.usage})

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, those of a step together."""
        empty = {**self._envelope(self.form.part), "choices": []}
        options = self.body.stream_options
        usage_wanted = options is not None and bool(options.include_usage)
        around = {**empty, "usage": None} if usage_wanted else empty
        choices = [
            ChoiceEvents(self.form.choice(sample, sample // self.wanted.best_of), around)
            for sample in range(self.wanted.count)
        ]

        def echoes() -> bytes:
            return b"".join([choice.echo() for choice in choices])

        first = await self.model.aside(echoes) if self.wanted.echo else b""
        form = ChoiceEvents.told if self.wanted.logprobs else ChoiceEvents.told_text
        async with aclosing(self._run()) as steps:
            async for step in steps:
                self._count(step)
                shown = [piece for piece in step if self._shown(piece)]
                if events := first + b"".join([form(choices[p.sample], p) for p in shown]):
                    yield events
                first = b""
        if usage_wanted:
            yield event(ascii_json({**empty, "usage": self.usage}))

    def _shown(self, piece: Piece) -> bool:
        """Whether a piece is an event; half a character's text comes with its other half."""
        return bool(piece.text) or piece.last or self.wanted.logprobs

    def _count(self, pieces: Seq[Piece]) -> None:
        """Note what a step gave, and when. Raises the failure of a text."""
        now = time.perf_counter()
        self._waited.observe(now - self._last)
        self._waited, self._last = self.service.metrics.between_tokens, now
        for piece in pieces:
            if piece.token is not None:
                self.drawn += 1
            if piece.failure is not None:
                raise piece.failure
            if piece.completion is not None:
                self.completions[piece.sample] = piece.completion

    def _run(self) -> AsyncGenerator[list[Piece], None]:
        """The pieces of each step."""
        if self.wanted.length == 0:
            return self._nothing_new()
        return self.model.run(self._requests(), owner=self.owner)

    def _requests(self) -> Iterator[Request]:
        return self.wanted.requests(self.body, self.params)

    async def _nothing_new(self) -> AsyncGenerator[list[Piece], None]:
        """The pieces of texts without new tokens, whose prompts are ids."""
        pieces = []
        for request in await self.model.aside(list, self._requests()):
            prompt = request.prompt
            ended = Completion(
                prompt=prompt,
                text="",
                prompt_tokens=tuple(prompt) if isinstance(prompt, tuple) else (),
                tokens=(),
                logprobs=(),
                finish_reason="length",
                stopped_by=None,
                seed=request.params.seed or 0,
                sample=request.sample,
                cached_tokens=0,
                drafted=0,
                accepted=0,
                score=None,
                timing=Timing(0.0, 0.0, 0.0),
            )
            pieces.append(Piece(request.sample, "", completion=ended))
        yield pieces

    @property
    def usage(self) -> Usage:
        """The numbers of tokens of the texts that ended."""
        done = self.completions.values()
        firsts = [one for one in done if one.sample % self.wanted.best_of == 0]
        read = sum(len(one.prompt_tokens) for one in firsts)
        drawn = sum(len(one.tokens) for one in done)
        cached = sum(one.cached_tokens for one in firsts)
        return Usage(
            prompt_tokens=read,
            completion_tokens=drawn,
            total_tokens=read + drawn,
            prompt_tokens_details=CachedTokens(cached_tokens=cached),
        )

    def _told_samples(self) -> list[int]:
        """The samples that are told: for each prompt the `n` likeliest per token."""
        n, best_of = self.wanted.n, self.wanted.best_of
        samples = range(self.wanted.count)
        if best_of == n:
            return list(samples)
        groups = (samples[s : s + best_of] for s in range(0, len(samples), best_of))
        return [sample for group in groups for sample in sorted(group, key=self._surprise)[:n]]

    def _surprise(self, sample: int) -> float:
        """The mean surprisal of a text's tokens; a text without tokens comes last."""
        logprobs = self.completions[sample].logprobs
        return -math.fsum(logprobs) / len(logprobs) if logprobs else math.inf

    def _envelope(self, kind: str) -> Envelope:
        bundle, seed = self.model.model.bundle, self.params.seed
        assert seed is not None
        return Envelope(
            id=f"{self.form.prefix}-{self.id}",
            object=kind,
            created=self.created,
            model=bundle.name,
            system_fingerprint=bundle.digest[:DIGITS],
            seed=seed,
        )


class Ending(TypedDict):
    """Why a text ended: OpenAI's word (null: it goes on), and our own."""

    finish_reason: Literal["length", "stop"] | None
    stop_details: NotRequired[StopDetails]


def ending(pieces: Seq[Piece]) -> Ending:
    """Why the text of these pieces ended, if it did."""
    done = pieces[-1].completion
    if done is None:
        return Ending(finish_reason=None)
    short = done.finish_reason in ("length", "context")
    return Ending(
        finish_reason="length" if short else "stop",
        stop_details=StopDetails(reason=done.finish_reason, by=done.stopped_by),
    )


async def answer(
    request: HttpRequest,
    service: Service,
    body: DrawingBody,
    make: Callable[[AsyncGPT2, float], Awaitable[Reply]],
) -> Response:
    """The response to a request for texts.

    `make` prepares the answer of a model for a request that came at a time of `perf_counter`. What
    it raises, and what the first step does, has a status of its own; later errors are events.
    """
    deadline = service.deadline()
    parts = _parts(request, service, body, make)
    try:
        async with service.limit(deadline):
            first = await while_there(request.receive, anext(parts))
    except BaseException:
        await parts.aclose()
        raise
    if body.stream:
        return EventStream(first, parts, service.limit(deadline))
    await parts.aclose()
    return Response(first, media_type="application/json")


async def _parts(
    request: HttpRequest,
    service: Service,
    body: DrawingBody,
    make: Callable[[AsyncGPT2, float], Awaitable[Reply]],
) -> AsyncGenerator[bytes, None]:
    """The parts of a stream, or the one of an answer; the model is in use until they are closed."""
    began = time.perf_counter()
    async with service.model(body.model) as model:
        made = await make(model, began)
        try:
            if body.stream:
                async with aclosing(made.events()) as events:
                    async for part in events:
                        yield part
            else:
                yield await made.whole()
        finally:
            ended = len(made.completions) == made.wanted.count
            note(request, model, made.usage["prompt_tokens"] if ended else None, made.drawn)


def note(request: HttpRequest, model: AsyncGPT2, read: int | None, drawn: int = 0) -> None:
    """Tell the access log which model read and drew how many tokens for a request.

    Of texts that did not end it is not known how many were read: None.
    """
    notes: dict[str, object] = request.state.notes
    notes |= {"model": model.model.name, "prompt_tokens": read, "completion_tokens": drawn}
