"""Servers of the tiny model that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pytest

pytest.importorskip("fastapi")

from fastapi import Body
from fastapi.testclient import TestClient

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.serving.settings import ServeSettings
from held_steps import HeldSteps
from page_use import Open, open_pages
from serving import LIMIT, RunningServer, in_process, running, wait_until

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
    """Settings of a server that has no model in memory."""
    return replace(serve_settings, on_demand=True, patience=LIMIT, body_bytes=100_000)


@pytest.fixture(scope="module")
def own(quick: ServeSettings) -> Iterator[RunningServer]:
    """A server of the test's file that knows `/echo`, a path that takes JSON."""
    with running(replace(quick, timeout=1e9), "asyncio") as started:
        started.app.add_api_route("/echo", echo, methods=["POST"])
        yield started


@pytest.fixture
def path(model: Path) -> Path:
    """The model's directory, where a test calls something else `model`."""
    return model


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldSteps]:
    """Texts grow by as many steps as the test allows."""
    held = HeldSteps(monkeypatch)
    yield held
    held.allow()


# ---- the page


@pytest.fixture
def open_page(browser: Browser, server: RunningServer, errors: list[str]) -> Iterator[Open]:
    """Opens a page of the server, which has no other test's text to write any more."""
    wait_until(lambda: server.service.in_flight == 0)
    with open_pages(browser, errors, f"{server.url}/", DESCRIBED) as start:
        yield start
