"""Servers of the tiny model that the tests of this folder share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest

pytest.importorskip("fastapi")

from fastapi import Body
from fastapi.testclient import TestClient

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.generation.scheduler import Scheduler
from gpt2rt.serving.settings import ServeSettings
from page_use import Open, open_pages
from serving import RunningServer, in_process, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DESCRIBED = "#vectors-pooling-note:not(:empty)"  # the last thing that a page asks for at its start


@pytest.fixture(scope="session")
def serve_settings(tiny_bundles: dict[str, Bundle]) -> ServeSettings:
    """Two models, on a free port: `tiny-int8`, the first, and `tiny-fp32`."""
    models = tuple(str(tiny_bundles[name].directory) for name in ("int8", "fp32"))
    return ServeSettings(models, port=0, threads=1, slots=8)


@pytest.fixture(scope="session")
def server(serve_settings: ServeSettings) -> Iterator[RunningServer]:
    """A server on a real socket, one for all tests."""
    with running(serve_settings) as started:
        yield started


@pytest.fixture(scope="session")
def client(serve_settings: ServeSettings) -> Iterator[TestClient]:
    """A client of the application without sockets."""
    with in_process(serve_settings) as made:
        yield made


async def echo(body: Annotated[dict[str, int], Body()]) -> dict[str, int]:
    return body


@pytest.fixture(scope="session")
def quick(serve_settings: ServeSettings) -> ServeSettings:
    """Settings of a server that has no model in memory and little patience."""
    return replace(serve_settings, on_demand=True, patience=0.2, body_bytes=100_000)


@pytest.fixture(scope="module")
def own(quick: ServeSettings) -> Iterator[RunningServer]:
    """A server of the test's file that knows `/echo`, a path that takes JSON."""
    with running(quick) as started:
        started.app.add_api_route("/echo", echo, methods=["POST"])
        yield started


@pytest.fixture
def path(model: Path) -> Path:
    """The model's directory, where a test calls something else `model`."""
    return model


# ---- the page


@pytest.fixture
def open_page(browser: Browser, server: RunningServer, errors: list[str]) -> Iterator[Open]:
    """Opens a page of the server."""
    with open_pages(browser, errors, f"{server.url}/", DESCRIBED, seconds=10) as start:
        yield start


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts grow by 10 tokens a second at most: none ends before a test stops it."""
    turn = Scheduler.turn

    def wait(self: Scheduler, *resting: Any) -> Any:
        time.sleep(0.1)
        return turn(self, *resting)

    monkeypatch.setattr(Scheduler, "turn", wait)
