"""Models of `AsyncGPT2` and calls of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gpt2rt import AsyncGPT2, Piece, Request, SamplingParams, Stopping

LIMIT = 120.0  # seconds to wait for what has to come: a machine may have much else to do
PARAMS = SamplingParams(seed=5)
TEN = Stopping(length=10, end_of_text=False)
LONG = Stopping(length=40, end_of_text=False)
BOATS = "a small boat " * 3_000  # whose scores take seconds, in hundreds of slices
ENDLESS = Stopping(length=100_000, end_of_text=False, overflow="slide")


@asynccontextmanager
async def opened(path: Path, **settings: Any) -> AsyncIterator[AsyncGPT2]:
    """A model of the test's own."""
    async with await AsyncGPT2.load(path, threads=1, **settings) as model:
        yield model


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.001)


async def is_empty(model: AsyncGPT2) -> None:
    """Wait until nothing runs or waits in a model."""
    counts = model.model.batch
    await until(lambda: counts.statistics.running == counts.statistics.queued == 0)


def requests(count: int, stopping: Stopping = TEN) -> list[Request]:
    return [Request("ab", PARAMS, stopping, sample=sample) for sample in range(count)]


async def joined(stream: AsyncIterator[str]) -> str:
    return "".join([text async for text in stream])


LEAVE: dict[str, Callable[[AsyncGPT2], Awaitable[object]]] = {
    "generate": lambda model: model.generate("a", PARAMS, ENDLESS),
    "batch": lambda model: model.generate_batch(["a"] * 9, PARAMS, ENDLESS),
    "stream": lambda model: joined(model.stream("a", PARAMS, ENDLESS)),
    "run": lambda model: collected(model.run(requests(3, ENDLESS))),
}


async def collected(run: AsyncIterator[list[Piece]]) -> list[Piece]:
    return [piece async for pieces in run for piece in pieces]
