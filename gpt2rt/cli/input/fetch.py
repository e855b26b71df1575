"""Bundles from URLs, with a bar while one comes."""

from __future__ import annotations

from gpt2rt import Bundle
from gpt2rt.bundles import fetching, library


def find(model: str | None) -> Bundle:
    """The bundle asked for; None: the default one."""
    if model is None:
        return library.default()
    fetch(model)
    return library.find(model)


def fetch(model: str) -> None:
    """Fetch the bundle that a URL names, unless it is here; other names are left alone."""
    if not fetching.is_url(model):
        return
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from gpt2rt.cli.output.consoles import progress

    with progress(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bars:
        bar = bars.add_task("Fetch", total=None)
        fetching.fetched(
            model, progress=lambda done, size: bars.update(bar, completed=done, total=size)
        )
