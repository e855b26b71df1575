"""Calls of `AsyncGPT2` that are cancelled or left free their slots."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from async_models import (
    BOATS,
    ENDLESS,
    LEAVE,
    LIMIT,
    LONG,
    PARAMS,
    TEN,
    is_empty,
    opened,
    requests,
    until,
)
from gpt2rt import GPT2, EmbedParams, Request, Stopping
from gpt2rt.generation.client import Client


@pytest.mark.parametrize("kind", LEAVE)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_cancelled_call_frees_its_slots(path: Path, kind: str, steps: int) -> None:
    """And changes nothing for another."""

    async def check() -> None:
        async with opened(path, slots=4) as model:
            batch = model.model.batch
            other = asyncio.create_task(model.generate("b", PARAMS, LONG))
            leaving = asyncio.ensure_future(LEAVE[kind](model))
            began = batch.statistics.steps
            await until(lambda: batch.statistics.steps >= began + steps)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert (await other).text == model.model.generate("b", PARAMS, LONG).text
            await is_empty(model)
            again = await model.generate_batch(["b"] * 4, PARAMS, TEN)
            assert again[0].text == model.model.generate("b", PARAMS, TEN).text

    asyncio.run(check())


def test_a_loop_that_is_left_frees_its_slot(path: Path) -> None:
    async def check() -> None:
        async with opened(path) as model:
            async for _ in model.stream("a", PARAMS, ENDLESS):
                break
            await is_empty(model)
            async with asyncio.timeout(LIMIT):
                async with aclosing(model.run(requests(2, ENDLESS))) as run:
                    await anext(run)
                await is_empty(model)

    asyncio.run(check())


def test_a_reader_who_was_long_away_goes_on(path: Path, gpt2: GPT2) -> None:
    """Its text rests when it is a context ahead of the reader."""
    stopping = Stopping(length=200, end_of_text=False, overflow="slide")

    async def check() -> None:
        async with opened(path) as model, asyncio.timeout(LIMIT):
            batch, text = model.model.batch, ""
            async for piece in model.stream("a", PARAMS, stopping):
                if not text:
                    await until(lambda: batch.statistics.tokens >= model.model.hparams.n_ctx)
                    await asyncio.sleep(0.05)  # the steps have ended
                text += piece
            assert text == gpt2.generate("a", PARAMS, stopping).text

    asyncio.run(check())


def test_a_program_that_leaves_everything_ends(path: Path) -> None:
    """Without closing anything, while texts run."""
    code = f"""
import asyncio
from gpt2rt import AsyncGPT2, Stopping

async def main():
    model = await AsyncGPT2.load({str(path)!r}, threads=1)
    endless = Stopping(length=10**6, end_of_text=False, overflow="slide")
    tasks = [asyncio.create_task(model.generate("a", stopping=endless)) for _ in range(9)]
    stream = model.stream("b", stopping=endless)
    print(len(await anext(stream)) >= 0)

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


# ---- scoring and embedding


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is computed of texts to be scored and embedded, a slice after the other."""
    found: list[object] = []
    call = Client.call

    def counted(self: Client, work: Callable[[], Any]) -> Any:
        found.append(work)
        return call(self, work)

    monkeypatch.setattr(Client, "call", counted)
    return found


def test_a_cancelled_score_of_a_long_text_ends(path: Path, slices: list[object]) -> None:
    async def check() -> None:
        async with opened(path) as model:
            scoring = asyncio.create_task(model.score(BOATS, stride=1))
            await until(lambda: bool(slices))
            scoring.cancel()
            await asyncio.sleep(0)
            begun = len(slices)
            await model.aclose()  # waits for the threads
        assert len(slices) <= begun + 1

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["score", "embed"])
def test_a_cancelled_call_ends_with_its_slice(path: Path, slices: list[object], kind: str) -> None:
    """Not with its text, whose reading takes as long as it is long."""

    async def check() -> None:
        async with opened(path) as model:
            calling = asyncio.ensure_future(
                model.score(BOATS, stride=1)
                if kind == "score"
                else model.embed(BOATS, EmbedParams(stride=1))
            )
            await until(lambda: len(slices) > 2)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            begun = len(slices)
        assert len(slices) <= begun + 1

    asyncio.run(check())


def test_cancelled_scores_end(path: Path) -> None:
    given: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(10**7):
            given.append(number)
            yield "a small boat"

    async def check() -> None:
        async with opened(path) as model:
            scoring = asyncio.create_task(model.score_batch(texts()))
            await until(lambda: bool(given))
            scoring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await scoring
            await model.score("b")  # there is a thread for it
        assert len(given) < 10**7

    asyncio.run(check())


# ---- forks


def test_a_text_that_rested_goes_on_when_its_reader_does(path: Path) -> None:
    """Its reader was more than a context behind, so there was nothing more to do."""

    async def scenario() -> None:
        async with opened(path) as model:
            sliding = Stopping(length=200, end_of_text=False, overflow="slide")
            async with aclosing(model.run([Request("ab", PARAMS, sliding)])) as steps:
                found = [*await anext(steps)]
                before = -1
                while (now := model.model.batch.statistics.steps) != before:
                    before = now
                    await asyncio.sleep(0.05)
                assert now < 200
                async with asyncio.timeout(LIMIT):
                    async for pieces in steps:
                        found += pieces
            assert sum(piece.token is not None for piece in found) == 200

    asyncio.run(scenario())
