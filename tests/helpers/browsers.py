"""Starts Chromium for a test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

LIMIT = 120.0  # seconds to wait for what has to come: a machine may have much else to do
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def chromium(*switches: str) -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as started:
        # Root, as in a container, has no sandbox.
        arguments = ["--no-sandbox", *switches]
        running = started.chromium.launch(executable_path=found, args=arguments)
        playwright.expect.set_options(timeout=1000 * LIMIT)
        yield running
        running.close()


def new_context(browser: Browser, **settings: Any) -> BrowserContext:
    """A window of its own, whose pages are waited for as long as they take."""
    context = browser.new_context(**settings)
    context.set_default_timeout(1000 * LIMIT)
    return context
