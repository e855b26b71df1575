"""Serves a page for the browser while a test runs, and waits for its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from gpt2rt_export.web.hosting import server, url

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOADED = "body[data-threads]"  # when the page has its model


@contextmanager
def hosted(directory: Path, *, isolated: bool = True) -> Iterator[str]:
    """The address of a folder while a server runs."""
    with server(directory, 0, isolated=isolated) as running:
        thread = Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield url(running)
        finally:
            running.shutdown()
            thread.join()


def opened(page: Page) -> None:
    """Wait until the model is there."""
    page.locator(LOADED).wait_for(state="attached", timeout=30_000)
