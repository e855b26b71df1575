"""Several models in one process: loaded when asked for, within a limit of memory."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadBundle, InvalidSetting, OutOfMemory, UnknownModel
from gpt2rt.serving import models
from gpt2rt.serving.models import Models
from gpt2rt.serving.settings import ServeSettings
from serving import LIMIT, fault, in_process, running, wait_until

Check = Callable[[Models], Coroutine[Any, Any, None]]


def within(settings: ServeSettings, check: Check) -> None:
    """Run `check` on the models of `settings`, and close them."""

    async def run() -> None:
        served = Models(settings)
        try:
            await check(served)
        finally:
            await served.close()

    asyncio.run(run())


@pytest.fixture
def three(tiny_bundles: dict[str, Bundle]) -> ServeSettings:
    """Three models of which two fit."""
    paths = tuple(str(tiny_bundles[name].directory) for name in ("int8", "fp16", "fp32"))
    settings = ServeSettings(paths, threads=1, slots=2)
    sizes = sorted(served.bytes for served in Models(settings).all())
    return replace(settings, memory=sizes[2] + sizes[1])


def loaded(served: Models) -> list[str]:
    return [name for name, _ in served.loaded()]


async def ask(served: Models, name: str | None) -> str:
    async with served.use(name) as model:
        return model.model.name


def test_a_model_is_loaded_when_it_is_asked_for(three: ServeSettings) -> None:
    async def check(served: Models) -> None:
        assert loaded(served) == []
        assert await ask(served, None) == "tiny-int8"
        assert await ask(served, "tiny-int8") == "tiny-int8"
        assert loaded(served) == ["tiny-int8"]

    within(three, check)


def test_a_model_has_the_name_of_the_command_line_too(three: ServeSettings) -> None:
    async def check(served: Models) -> None:
        assert await ask(served, three.models[2]) == "tiny-fp32"

    within(three, check)


def test_no_other_directory_is_a_model(three: ServeSettings, tmp_path: Path) -> None:
    shutil.copytree(three.models[0], tmp_path / "other")

    async def check(served: Models) -> None:
        for name in (str(tmp_path / "other"), "demo", "117M", "", "../x", "\ud800"):
            with pytest.raises(UnknownModel, match="there are tiny-int8, tiny-fp16, tiny-fp32"):
                await ask(served, name)

    within(three, check)


def test_the_longest_unused_model_makes_room(three: ServeSettings) -> None:
    async def check(served: Models) -> None:
        for name in ("tiny-int8", "tiny-fp16", "tiny-int8", "tiny-fp32"):
            await ask(served, name)
        assert loaded(served) == ["tiny-int8", "tiny-fp32"]

    within(three, check)


def test_a_model_in_use_stays(three: ServeSettings) -> None:
    async def check(served: Models) -> None:
        async with served.use("tiny-int8") as first, served.use("tiny-fp16"):
            with pytest.raises(OutOfMemory, match="no room for tiny-fp32"):
                await ask(served, "tiny-fp32")
            assert loaded(served) == ["tiny-int8", "tiny-fp16"]
            assert first.model.generate("a").text is not None
        assert await ask(served, "tiny-fp32") == "tiny-fp32"

    within(three, check)


class Slow:
    """`GPT2` that is loaded when `go` is set; counts."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.count = 0

    def __call__(self, *given: Any, **named: Any) -> GPT2:
        self.count += 1
        self.go.wait(LIMIT)
        return GPT2(*given, **named)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()
    monkeypatch.setattr(models, "GPT2", made)
    return made


def test_many_who_wait_load_a_model_once(three: ServeSettings, slow: Slow) -> None:
    """However many of them leave."""

    async def check(served: Models) -> None:
        waiting = [asyncio.create_task(ask(served, "tiny-int8")) for _ in range(5)]
        while not slow.count:
            await asyncio.sleep(0.001)
        for task in waiting[:4]:
            task.cancel()
        slow.go.set()
        assert await waiting[4] == "tiny-int8"
        assert slow.count == 1
        assert all(one.users == 0 for one in served.all())

    within(three, check)


def test_what_all_left_is_there_for_the_next(three: ServeSettings, slow: Slow) -> None:
    async def check(served: Models) -> None:
        waiting = asyncio.create_task(ask(served, "tiny-int8"))
        while not slow.count:
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait([waiting])
        slow.go.set()
        assert await ask(served, "tiny-int8") == "tiny-int8"
        assert slow.count == 1

    within(three, check)


def test_models_that_do_not_fit_at_the_start(three: ServeSettings) -> None:
    async def check(served: Models) -> None:
        with pytest.raises(InvalidSetting, match=r"do not fit|no room"):
            await served.load_all()

    within(three, check)
    with pytest.raises(InvalidSetting, match="fewer slots"):
        Models(replace(three, memory=1000))


def test_two_models_of_one_name(three: ServeSettings, tmp_path: Path) -> None:
    shutil.copytree(three.models[0], tmp_path / "copy")
    with pytest.raises(InvalidSetting, match="two models are called tiny-int8"):
        Models(replace(three, models=(three.models[0], str(tmp_path / "copy"))))


def test_a_damaged_model_is_an_error_of_its_own(three: ServeSettings, tmp_path: Path) -> None:
    """The others are served; where the file lies is for the log."""
    broken = tmp_path / "broken"
    shutil.copytree(three.models[0], broken)
    weights = bytearray((broken / "weights.bin").read_bytes())
    weights[100] ^= 1
    (broken / "weights.bin").write_bytes(weights)
    settings = replace(three, models=(str(broken), three.models[1]), on_demand=True)

    async def check(served: Models) -> None:
        with pytest.raises(BadBundle):
            await ask(served, None)
        assert await ask(served, "tiny-fp16") == "tiny-fp16"

    within(settings, check)


def test_a_server_is_ready_when_its_models_are_loaded(three: ServeSettings, slow: Slow) -> None:
    settings = replace(three, models=three.models[:1], memory=None)
    with in_process(settings) as client:
        assert client.get("/health").status_code == 200
        assert fault(client.get("/ready")) == (503, "loading")
        slow.go.set()
        wait_until(lambda: client.get("/ready").status_code == 200)


def test_a_server_whose_model_cannot_be_loaded_ends(
    three: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **named: Any) -> GPT2:
        raise BadBundle("damaged")

    monkeypatch.setattr(models, "GPT2", fails)
    with running(replace(three, port=0)) as server:
        server.thread.join(LIMIT)
        assert not server.thread.is_alive()
        assert isinstance(server.service.failure, BadBundle)


def test_whatever_ends_the_loading_ends_the_server(
    three: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than a server that says it is ready, and has no model."""

    def fail(*given: object, **named: object) -> GPT2:
        raise MemoryError("of all things")

    monkeypatch.setattr(models, "GPT2", fail)
    with running(replace(three, on_demand=False)) as server:
        server.thread.join(LIMIT)
        assert isinstance(server.service.failure, MemoryError)
