"""Errors of `AsyncGPT2`: full queues, failed steps, closed models, other loops, forks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from async_models import (
    BOATS,
    ENDLESS,
    LEAVE,
    PARAMS,
    TEN,
    collected,
    is_empty,
    joined,
    opened,
    requests,
    until,
)
from gpt2rt import GPT2, AsyncGPT2, Request
from gpt2rt.errors import BadText, InvalidSetting, PromptTooLong, QueueFull, StepFailed
from gpt2rt.generation.scheduler import Scheduler


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
            calls = [asyncio.create_task(model.score(BOATS, stride=1)) for _ in range(20)]
            await asyncio.sleep(0)
            await model.aclose()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert set(map(type, ends)) == {InvalidSetting}
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
