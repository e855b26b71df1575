"""`AsyncGPT2`: texts side by side, each as it would be alone; cancelled calls free their slots."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2rt import (
    GPT2,
    AsyncGPT2,
    EmbedParams,
    Passage,
    Piece,
    Request,
    SamplingParams,
    Score,
    Stopping,
)
from gpt2rt.errors import BadText, InvalidSetting, PromptTooLong, QueueFull, StepFailed
from gpt2rt.generation.client import Client
from gpt2rt.generation.scheduler import Scheduler

PARAMS = SamplingParams(seed=5)
TEN = Stopping(length=10, end_of_text=False)
LONG = Stopping(length=40, end_of_text=False)
ENDLESS = Stopping(length=100_000, end_of_text=False, overflow="slide")


@pytest.fixture
def path(model: Path) -> Path:
    return model


@asynccontextmanager
async def opened(path: Path, **settings: Any) -> AsyncIterator[AsyncGPT2]:
    """A model of the test's own."""
    async with await AsyncGPT2.load(path, threads=1, **settings) as model:
        yield model


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


async def is_empty(model: AsyncGPT2) -> None:
    """Wait until nothing runs or waits in a model."""
    counts = model.model.batch
    await until(lambda: counts.statistics.running == counts.statistics.queued == 0)


def requests(count: int, stopping: Stopping = TEN) -> list[Request]:
    return [Request("ab", PARAMS, stopping, sample=sample) for sample in range(count)]


# ---- the texts


def test_texts_are_those_of_the_library(path: Path, gpt2: GPT2) -> None:
    prompts = ["a", "bc", None, (1, 2, 3), "bc"]

    async def check() -> None:
        async with opened(path, slots=3) as model:
            found = await model.generate_batch(prompts, PARAMS, TEN)
            alone = gpt2.generate_batch(prompts, PARAMS, TEN)
            assert [one.text for one in found] == [one.text for one in alone]
            streams = [model.stream(prompt, PARAMS, TEN) for prompt in prompts]
            texts = await asyncio.gather(*(joined(stream) for stream in streams))
            assert texts == ["".join(gpt2.stream(prompt, PARAMS, TEN)) for prompt in prompts]
            assert (await model.generate("a", PARAMS, TEN)).tokens == found[0].tokens

    asyncio.run(check())


async def joined(stream: AsyncIterator[str]) -> str:
    return "".join([text async for text in stream])


def test_texts_run_side_by_side(path: Path) -> None:
    async def check() -> None:
        async with opened(path, slots=8) as model:
            await asyncio.gather(*(model.generate("a", PARAMS, TEN) for _ in range(8)))
            assert model.model.batch.statistics.steps < 30  # one after the other: 80

    asyncio.run(check())


def test_more_requests_than_slots_and_queue(path: Path) -> None:
    """A call has a place for all its requests; a generator of them is read as slots become free."""
    given: list[int] = []

    def generator() -> Iterator[Request]:
        for request in requests(20):
            given.append(request.sample)
            yield request

    async def check() -> None:
        async with opened(path, slots=2, queue=0) as model, aclosing(model.run(generator())) as run:
            done: list[int] = []
            async for pieces in run:
                done += [piece.sample for piece in pieces if piece.completion]
                assert len(given) <= len(done) + 3
        assert sorted(done) == [*range(20)]

    asyncio.run(check())


def test_a_list_a_step_has_the_pieces_of_all_its_texts(path: Path) -> None:
    async def check() -> None:
        async with opened(path) as model:
            steps = [step async for step in model.run(requests(4))]
            texts = [""] * 4
            for piece in (piece for step in steps for piece in step):
                texts[piece.sample] += piece.text
            alone = model.model.run(requests(4))
            done = {piece.sample: piece.completion for piece in alone if piece.completion}
            assert texts == [done[sample].text for sample in range(4)]
            assert len(steps) < 20

    asyncio.run(check())


def test_the_blocking_methods_share_the_batch(path: Path) -> None:
    async def check() -> None:
        async with opened(path, slots=4) as model:
            blocking = asyncio.to_thread(model.model.generate, "a", PARAMS, LONG)
            one, other = await asyncio.gather(blocking, model.generate("a", PARAMS, LONG))
            assert one.tokens == other.tokens
            await is_empty(model)

    asyncio.run(check())


# ---- leaving


LEAVE: dict[str, Callable[[AsyncGPT2], Awaitable[object]]] = {
    "generate": lambda model: model.generate("a", PARAMS, ENDLESS),
    "batch": lambda model: model.generate_batch(["a"] * 9, PARAMS, ENDLESS),
    "stream": lambda model: joined(model.stream("a", PARAMS, ENDLESS)),
    "run": lambda model: collected(model.run(requests(3, ENDLESS))),
}


async def collected(run: AsyncIterator[list[Piece]]) -> list[Piece]:
    return [piece async for pieces in run for piece in pieces]


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
            async with asyncio.timeout(20):
                async with aclosing(model.run(requests(2, ENDLESS))) as run:
                    await anext(run)
                await is_empty(model)

    asyncio.run(check())


def test_a_reader_who_was_long_away_goes_on(path: Path, gpt2: GPT2) -> None:
    """Its text rests when it is a context ahead of the reader."""
    stopping = Stopping(length=200, end_of_text=False, overflow="slide")

    async def check() -> None:
        async with opened(path) as model, asyncio.timeout(20):
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
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


# ---- errors


def test_a_full_queue(path: Path) -> None:
    async def check() -> None:
        async with opened(path, slots=1, queue=1) as model:
            first = asyncio.create_task(model.generate("a", PARAMS, ENDLESS))
            await until(lambda: model.model.batch.statistics.running == 1)
            second = asyncio.create_task(model.generate("a", PARAMS, TEN))
            await until(lambda: model.model.batch.statistics.queued == 1)
            with pytest.raises(QueueFull):
                await model.generate("a", PARAMS, TEN)
            first.cancel()
            assert (await second).text == model.model.generate("a", PARAMS, TEN).text

    asyncio.run(check())


def test_a_request_that_cannot_begin_fails_alone(path: Path) -> None:
    mixed = [*requests(2), Request((1,) * 99, PARAMS), Request("\ud800", PARAMS)]

    async def check() -> None:
        async with opened(path) as model:
            pieces = await collected(model.run(mixed))
            assert [type(p.failure) for p in pieces if p.failure] == [PromptTooLong, BadText]
            assert len([p for p in pieces if p.completion]) == 2
            with pytest.raises(PromptTooLong):
                await model.generate((1,) * 99)
            with pytest.raises(BadText):
                await joined(model.stream("\ud800"))
            with pytest.raises(InvalidSetting):
                await model.generate_batch("text")
            await is_empty(model)

    asyncio.run(check())


def test_a_step_that_fails_fails_the_texts_in_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and later texts are as ever."""
    turn, broken = Scheduler.turn, True

    def fails(self: Scheduler, *given: Any) -> Any:
        if broken:
            raise ZeroDivisionError("of all things")
        return turn(self, *given)

    monkeypatch.setattr(Scheduler, "turn", fails)

    async def check() -> None:
        nonlocal broken
        async with opened(path) as model:
            for count in (1, 2):
                for failure in await asyncio.gather(
                    *(model.generate("a", PARAMS, TEN) for _ in range(3)), return_exceptions=True
                ):
                    assert isinstance(failure, StepFailed)
                await until(lambda: model.failed >= count)  # noqa: B023
            assert "of all things" in caplog.text
            broken = False
            text = (await model.generate("a", PARAMS, TEN)).text
            assert text == model.model.generate("a", PARAMS, TEN).text
            await until(lambda: model.failed == 0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(check())


def test_a_closed_model_ends_what_runs_and_takes_no_more(path: Path) -> None:
    async def check() -> None:
        async with opened(path, slots=1) as model:
            calls = [asyncio.create_task(model.generate("a", PARAMS, ENDLESS)) for _ in range(3)]
            await until(lambda: model.model.batch.statistics.running == 1)
            await model.aclose()
            for call in calls:
                with pytest.raises(InvalidSetting, match="closed"):
                    await call
            for kind in LEAVE.values():
                with pytest.raises(InvalidSetting, match="closed"):
                    await kind(model)
            await model.aclose()

    asyncio.run(check())


def test_scores_that_wait_for_a_thread_end_with_a_closed_model(path: Path) -> None:
    async def check() -> None:
        async with opened(path) as model:
            calls = [asyncio.create_task(model.score("ab" * 10)) for _ in range(20)]
            await asyncio.sleep(0)
            await model.aclose()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert InvalidSetting in map(type, ends)
            assert {type(end) for end in ends} <= {Score, InvalidSetting}
            for late in (model.score("a"), model.embed("a"), model.aside(len, "a")):
                with pytest.raises(InvalidSetting, match="closed"):
                    await late

    asyncio.run(check())


def test_it_belongs_to_one_loop(path: Path) -> None:
    async def first() -> AsyncGPT2:
        model = await AsyncGPT2.load(path, threads=1)
        await model.generate("a", PARAMS, TEN)
        return model

    model = asyncio.run(first())
    for kind in LEAVE.values():
        with pytest.raises(InvalidSetting, match="event loop"):
            asyncio.run(call(kind, model))
    model.model.close()


async def call(kind: Callable[[AsyncGPT2], Awaitable[object]], model: AsyncGPT2) -> object:
    return await kind(model)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"queue": -1}, {"budget": 0}, {"slots": "many"}])
def test_settings_that_mean_nothing(gpt2: GPT2, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        AsyncGPT2(gpt2, **wrong)


# ---- scoring and embedding


def test_scores_and_vectors_are_those_of_the_library(path: Path, gpt2: GPT2) -> None:
    async def check() -> None:
        async with opened(path) as model:
            texts = asyncio.create_task(model.generate_batch(["a"] * 4, PARAMS, LONG))
            score = await model.score("a small boat", top=2)
            assert score == gpt2.score("a small boat", top=2)
            passage = Passage((1, 2, 3, 4))
            (tokens,) = await model.score_tokens([passage])
            (wanted,) = gpt2.score_tokens([passage])
            np.testing.assert_array_equal(tokens.logprobs, wanted.logprobs)
            found = await model.embed("a b", EmbedParams(layer=1))
            np.testing.assert_array_equal(
                found.vectors, gpt2.embed("a b", EmbedParams(layer=1)).vectors
            )
            with pytest.raises(BadText):
                await model.score("")
            assert len(await texts) == 4

    asyncio.run(check())


def test_a_cancelled_score_of_a_long_text_ends(path: Path) -> None:
    async def check() -> None:
        async with opened(path) as model:
            scoring = asyncio.create_task(model.score("a small boat " * 3_000, stride=1))
            await asyncio.sleep(0.05)
            scoring.cancel()
            async with asyncio.timeout(10):
                await model.aclose()  # waits for the threads

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["score", "embed"])
def test_a_cancelled_call_ends_with_its_slice(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Not with its text, whose reading takes as long as it is long."""
    text = "a small boat " * 3_000

    calls = []
    call = Client.call

    def counted(self: Client, work: Callable[[], Any]) -> Any:
        calls.append(work)
        return call(self, work)

    monkeypatch.setattr(Client, "call", counted)

    async def check() -> None:
        async with opened(path) as model:
            calling = asyncio.ensure_future(
                model.score(text, stride=1)
                if kind == "score"
                else model.embed(text, EmbedParams(stride=1))
            )
            await until(lambda: len(calls) > 2)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            begun = len(calls)
        assert len(calls) <= begun + 1  # of hundreds

    asyncio.run(check())


def test_cancelled_scores_end(path: Path) -> None:
    given: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(10_000):
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
        assert len(given) < 10_000

    asyncio.run(check())


# ---- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_to_load_its_own(path: Path) -> None:
    async def check() -> None:
        async with opened(path) as model:
            running = asyncio.create_task(model.generate("a", PARAMS, ENDLESS))
            await until(lambda: model.model.batch.statistics.running == 1)
            child = os.fork()
            if not child:
                os._exit(in_child(model))
            assert os.waitpid(child, 0)[1] == 0
            running.cancel()
            await is_empty(model)

    asyncio.run(check())


def in_child(model: AsyncGPT2) -> int:
    """0 if the model refuses, and its blocking methods do not."""

    async def ask() -> int:
        try:
            await model.generate("a", PARAMS, TEN)
        except InvalidSetting:
            return 0
        return 1

    asyncio.events._set_running_loop(None)  # the parent's
    return asyncio.run(ask()) or model.model.generate("a", PARAMS, TEN).finish_reason != "length"


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
                async with asyncio.timeout(20):
                    async for pieces in steps:
                        found += pieces
            assert sum(piece.token is not None for piece in found) == 200

    asyncio.run(scenario())
