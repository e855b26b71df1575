"""The loaded model for asyncio programs: `AsyncGPT2`, whose texts share one batch.

async with await AsyncGPT2.load("117M-int8") as model:
    async for text in model.stream("The meaning of life is"):
        print(text, end="", flush=True)

A thread makes the steps, for all texts, as long as there are any. Others read prompts, score and
embed. So the event loop only hands on what is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from contextvars import copy_context
from itertools import islice
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gpt2rt.checks import check_kind, check_list, check_whole
from gpt2rt.engine.providers import AUTO
from gpt2rt.errors import Gpt2rtError, InvalidSetting
from gpt2rt.generation.client import Client, caller_left
from gpt2rt.generation.completion import Completion, Piece, raise_failures
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.request import Request
from gpt2rt.generation.running import requests_of
from gpt2rt.generation.stopping import Stopping
from gpt2rt.generation.task import Task
from gpt2rt.model import GPT2, PREFIX_BYTES
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.embeddings import Embedding, EmbedParams
from gpt2rt.scoring.score import Score
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.text.prompts import Prompt, Truncate

if TYPE_CHECKING:
    from gpt2rt.sampling.constraint import Constraint

SLOTS = 32  # default of texts side by side
QUEUE = 256  # default of texts that may wait
# Default of prompt tokens in a step beside texts in progress: their next tokens wait for them.
BUDGET = 64
ASIDE = 2  # threads beside the one that steps, of each of two kinds

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("gpt2rt")


class AsyncGPT2:
    """A `GPT2` for asyncio programs, with the same methods, to be awaited.

    All texts that run at a time are one batch; each is as it would be alone. Cancelling a call, or
    closing its generator, frees its slots within a step. It belongs to the event loop that first
    uses it.

    Attributes:
        model: the model. Its own methods may be called from other threads, too.
        failed: how often in a row steps ended with an error.
    """

    def __init__(
        self, model: GPT2, *, slots: int = SLOTS, queue: int = QUEUE, budget: int = BUDGET
    ) -> None:
        """Share `model` among up to `slots` texts at a time; takes their memory at once.

        That takes a while, so an event loop that runs calls `load`, or this in a thread.

        Up to `queue` texts wait for a slot. A step reads up to `budget` tokens of prompts beside
        texts in progress: more read prompts sooner, but the other texts wait longer.

        Raises `InvalidSetting` or `OutOfMemory` if the memory is too small.
        """
        check_kind("model", model, GPT2)
        check_whole("slots", slots, 1)
        check_whole("queue", queue, 0)
        check_whole("budget", budget, 1)
        model.batch.limit(slots, queue, budget)
        self.model = model
        self._slots = slots
        self._steps = ThreadPoolExecutor(1, "gpt2rt-steps")
        self._aside = ThreadPoolExecutor(ASIDE, "gpt2rt-aside")
        self._scores = ThreadPoolExecutor(ASIDE, "gpt2rt-scores")
        self.failed = 0
        self._due = False  # whether a job of `_steps` waits that has not begun
        self._arrivals: dict[Client, asyncio.Future[None]] = {}  # of who waits, or did
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._process = os.getpid()

    @classmethod
    async def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        provider: str = AUTO,
        draft: str | os.PathLike[str] | None = None,
        prefix_bytes: int = PREFIX_BYTES,
        slots: int = SLOTS,
        queue: int = QUEUE,
        budget: int = BUDGET,
    ) -> AsyncGPT2:
        """Load a model as `GPT2.load` does, beside the event loop.

        `slots`, `queue` and `budget` are as in the constructor. Raises what both raise.
        """

        def loaded() -> AsyncGPT2:
            found = GPT2.load(
                model, threads=threads, provider=provider, draft=draft, prefix_bytes=prefix_bytes
            )
            return cls(found, slots=slots, queue=queue, budget=budget)

        return await asyncio.to_thread(loaded)

    async def aclose(self) -> None:
        """Close the model and end the threads; calls in progress end with `InvalidSetting`.

        `async with` does so at its end.
        """
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.model.close()  # so what waits for a thread ends at once, with its error
        for executor in (self._steps, self._aside, self._scores):
            executor.shutdown()

    async def __aenter__(self) -> AsyncGPT2:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    # ---- generating

    async def generate(
        self,
        prompt: Prompt = None,
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> Completion:
        """Continue `prompt`; see `GPT2.generate`. Raises `QueueFull`, too."""
        (completion,) = await self.generate_batch(
            [prompt], params, stopping, constraint=constraint, truncate=truncate, special=special
        )
        return completion

    async def generate_batch(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> list[Completion]:
        """Continue many prompts; see `GPT2.generate_batch`. Raises `QueueFull`, too."""
        requests = requests_of(prompts, params, stopping, constraint, truncate, special)
        found: list[Completion] = []
        async with aclosing(self._run(requests, None, ends_only=True)) as steps:
            async for pieces in steps:
                done = (piece.completion for piece in raise_failures(pieces))
                found += [completion for completion in done if completion is not None]
        return sorted(found, key=lambda completion: completion.sample)

    async def stream(
        self,
        prompt: Prompt = None,
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> AsyncGenerator[str, None]:
        """Continue `prompt` and yield the text as it is generated; see `GPT2.stream`.

        Raises `QueueFull`, too.
        """
        request = Request(prompt, params, stopping, constraint, truncate, special=special)
        async with aclosing(self.run([request])) as steps:
            async for pieces in steps:
                if text := "".join([piece.text for piece in raise_failures(pieces)]):
                    yield text

    def run(
        self, requests: Iterable[Request], *, owner: Hashable = None
    ) -> AsyncGenerator[list[Piece], None]:
        """Run requests, each with its own settings, and yield their pieces, a list for each step.

        Requests are taken as slots become free; a generator of them is run in another thread. A
        request for which `generate` would raise an error gives a piece with that `failure`. Slots
        go to `owner`s in turn; None is one of its own. The generator raises `QueueFull` if too many
        texts wait.
        """
        check_list("requests", requests, "generate")
        return self._run(iter(requests), owner, ends_only=False)

    async def _run(
        self, requests: Iterator[Request], owner: Hashable, *, ends_only: bool
    ) -> AsyncGenerator[list[Piece], None]:
        self._check_place()
        prompted, more, first = self.model.tasks.read(requests), True, True
        client = self.model.batch.client(self._slots, owner=owner, wake=self._wake)
        client.ends_only = ends_only
        try:
            while more or client.in_flight:
                if more and (room := self._slots - client.in_flight):
                    tasks, failures = await self.aside(self._begin, prompted, room)
                    more = len(tasks) + len(failures) == room
                    if tasks:
                        client.submit(tasks, wait=not first)
                        first = False
                        self._drive()
                    if failures:
                        yield failures
                if client.in_flight:
                    if not client.steps:
                        await self._arrival(client)
                    pieces = client.ready()
                    if client.in_flight:  # its texts may have rested until it took the pieces
                        self._drive()
                    if pieces:
                        yield pieces
        finally:
            self._arrivals.pop(client, None)
            client.close()

    def _arrival(self, client: Client) -> asyncio.Future[None]:
        """What ends when there are pieces for a client."""
        assert self._loop is not None
        arrival = self._arrivals[client] = self._loop.create_future()
        return arrival

    def _begin(self, prompted: Iterator[Prompted], most: int) -> tuple[list[Task], list[Piece]]:
        """The tasks of up to `most` requests, and the failures of those that cannot begin."""
        tasks, failures = [], []
        for one in islice(prompted, most):
            try:
                tasks.append(self.model.tasks.begin(one))
            except Gpt2rtError as error:
                failures.append(Piece(one.request.sample, "", failure=error))
        return tasks, failures

    def _drive(self) -> None:
        """Have steps made until the batch is empty. At most one job waits behind another."""
        if not self._due:
            self._due = True
            self._steps.submit(self._make_steps)

    def _make_steps(self) -> None:
        self._due = False  # whoever joins from now on needs another job: this one may just end
        try:
            self.model.batch.drive()
            self.failed = 0
        except Exception:  # all texts in the batch were told
            self.failed += 1
            log.exception("a step of %s failed", self.model.name)

    def _wake(self) -> None:
        """Tell the loop that there are pieces: called once a step, by the thread that made it."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._hand_on)

    def _hand_on(self) -> None:
        for client, arrival in self._arrivals.items():
            if client.steps and not arrival.done():
                arrival.set_result(None)

    # ---- scoring and embedding

    async def score(self, text: str, **settings: Any) -> Score:
        """Score `text`; settings and errors are those of `GPT2.score`."""
        (score,) = await self.score_batch([text], **settings)
        return score

    async def score_batch(self, texts: Iterable[str], **settings: Any) -> list[Score]:
        """Score many texts; settings and errors are those of `GPT2.score`."""
        return await self._collect(lambda: self.model.score_batch(texts, **settings))

    async def score_tokens(self, passages: Iterable[Passage], *, top: int = 0) -> list[TokenScores]:
        """Score the tokens of each passage; see `GPT2.score_tokens`."""
        return await self._collect(lambda: self.model.score_tokens(passages, top=top))

    async def embed(self, text: str, params: EmbedParams = EmbedParams()) -> Embedding:
        """Embed `text`; see `GPT2.embed`."""
        (embedding,) = await self.embed_batch([text], params)
        return embedding

    async def embed_batch(
        self, texts: Iterable[str], params: EmbedParams = EmbedParams()
    ) -> list[Embedding]:
        """Embed many texts; see `GPT2.embed`."""
        return await self._collect(lambda: self.model.embed_batch(texts, params))

    async def _collect(self, begin: Callable[[], Iterator[T]]) -> list[T]:
        """All results of what `begin` returns, computed beside the loop.

        When the call is cancelled the work ends with the next slice.
        """
        loop, left, context = self._check_place(), threading.Event(), copy_context()
        context.run(caller_left.set, left)
        try:
            return await loop.run_in_executor(self._scores, context.run, lambda: list(begin()))
        finally:
            left.set()

    # ----

    async def aside(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The result of a function that takes long, such as encoding a text, run in a thread."""
        loop = self._check_place()
        return await loop.run_in_executor(self._aside, lambda: function(*arguments, **named))

    def _check_place(self) -> asyncio.AbstractEventLoop:
        """The running loop.

        Raises `InvalidSetting` if it is not that of the first call, or the model is closed.
        """
        if self._closed:
            raise self.model.runtime.closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop or self._process != os.getpid():
            raise InvalidSetting(
                "an AsyncGPT2 belongs to the event loop and the process that first used it; load "
                "another one here"
            )
        return loop
