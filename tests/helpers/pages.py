"""Serves a page for the browser while a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from gpt2rt_export.web.hosting import server, url


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
