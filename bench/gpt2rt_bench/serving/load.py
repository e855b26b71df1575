"""The load: clients that stream texts at the same time, and long prompts that come in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import InvalidSetting
from gpt2rt_bench.protocol import Tokens
from gpt2rt_bench.serving.process import model_at
from gpt2rt_bench.serving.streams import StreamClient, StreamedText

TEXTS = 4  # of each client in a round
PROMPTS = (16, 256)  # tokens of the shortest and of the longest prompt
LONG, AFTER_LONG = 900, 16  # tokens of a long prompt, and after it
MOST_LONG = 8  # that wait for their answers: a server that falls behind is not flooded


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked in a round: `steps` tokens after each of `prompts`; `long` is a long prompt."""

    prompts: Sequence[Tokens]
    long: Tokens
    steps: int
    seed: int

    @classmethod
    def drawn(cls, hparams: HParams, texts: int, steps: int, seed: int) -> Load:
        """Random prompts of `PROMPTS` tokens, or of what the context leaves beside `steps`.

        Raises `InvalidSetting` if the context is too small.
        """
        random = np.random.default_rng(seed)
        most = hparams.n_ctx - max(steps, AFTER_LONG)
        if most < 1 or steps < 2:
            raise InvalidSetting(
                f"--steps must be 2 to {hparams.n_ctx - 1} for a context of {hparams.n_ctx} tokens"
            )
        shortest, longest = (min(length, most) for length in PROMPTS)
        lengths = random.integers(shortest, longest, texts, endpoint=True)

        def prompt(length: int) -> Tokens:  # the last token of GPT-2 is a control token
            return [int(token) for token in random.integers(0, hparams.n_vocab - 1, length)]

        return cls([prompt(length) for length in lengths], prompt(min(LONG, most)), steps, seed)

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The requests, in OpenAI's form."""
        for number, prompt in enumerate(self.prompts):
            seed = self.seed * len(self.prompts) + number
            yield {"prompt": prompt, "max_tokens": self.steps, "temperature": 1, "seed": seed}


@dataclass(frozen=True, slots=True)
class LoadRound:
    """The texts of a round, the seconds that it took, and how many long prompts were answered."""

    texts: Sequence[StreamedText]
    seconds: float
    long: int = 0

    @property
    def tokens(self) -> int:
        """New tokens of all texts."""
        return sum(text.tokens for text in self.texts)

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all texts in a second."""
        return self.tokens / self.seconds


def run_clients(url: str, load: Load, clients: int, long_every: float | None = None) -> LoadRound:
    """Stream all texts of a load from the server at `url`.

    `clients` are busy at a time, each with one text after another. `long_every`: seconds from one
    long prompt to the next, whose own times are not counted; None: there are none.
    Raises `SubjectFailed`.
    """
    try:
        return asyncio.run(streamed(url, load, clients, long_every))
    except ExceptionGroup as group:
        raise _first(group) from None


async def streamed(
    url: str, load: Load, clients: int, long_every: float | None = None
) -> LoadRound:
    """As `run_clients`, in a running event loop. Raises `ExceptionGroup` of `SubjectFailed`."""
    named = await asyncio.to_thread(model_at, url)
    bodies = load.bodies()
    texts: list[StreamedText] = []
    answered: list[StreamedText] = []

    async def client() -> None:
        async with StreamClient(url) as connection:
            for body in bodies:  # all clients take from one iterator
                texts.append(await connection.stream({**named, **body}))

    async with asyncio.TaskGroup() as others:
        long = None
        if long_every is not None:
            long = others.create_task(_long_prompts(url, load, named, long_every, answered))
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        seconds = time.perf_counter() - began
        if long is not None:
            long.cancel()
    return LoadRound(texts, seconds, len(answered))


def _first(error: Exception) -> Exception:
    """The first of the errors of a group."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _long_prompts(
    url: str, load: Load, named: Mapping[str, Any], every: float, answered: list[StreamedText]
) -> None:
    """Send a long prompt again and again, while fewer than `MOST_LONG` wait for their answers.

    Each begins with a token of its own, so that no cache has it.
    """

    async def ask(number: int) -> None:
        prompt = [load.long[number % len(load.long)], *load.long[1:]]
        async with StreamClient(url) as connection:
            body = {"prompt": prompt, "max_tokens": AFTER_LONG, "temperature": 1, "seed": number}
            answered.append(await connection.stream({**named, **body}))

    async with asyncio.TaskGroup() as group:
        waiting: set[asyncio.Task[None]] = set()
        for number in count():
            if len(waiting) < MOST_LONG:
                waiting.add(task := group.create_task(ask(number)))
                task.add_done_callback(waiting.discard)
            await asyncio.sleep(every)
