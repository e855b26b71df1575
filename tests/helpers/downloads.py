"""Downloads as tests make them: from servers on this machine, with what they tell noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from file_server import FileServer
from gpt2rt.bundles.catalog import CHECKPOINT_FILES, Release
from gpt2rt.errors import DownloadFailure
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.network import Network

NOWHERE = "http://127.0.0.1:9/models"  # the discard port: nobody answers


class Notes:
    """Keeps what a download tells."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.last: dict[str, tuple[int, int | None]] = {}

    def bytes_done(self, name: str, done: int, total: int | None) -> None:
        assert total is None or 0 < done <= total
        self.last[name] = (done, total)

    def note(self, text: str) -> None:
        assert "\n" not in text
        self.notes.append(text)


def network(*servers: FileServer | str, **settings: Any) -> Network:
    roots = tuple(s if isinstance(s, str) else s.root for s in servers)
    return Network(**{"mirrors": roots, "backoff": 0.001, "longest_wait": 0.01, **settings})


def whole(place: Path, server: FileServer) -> bool:
    return {n: (place / n).read_bytes() for n in CHECKPOINT_FILES} == server.files


def refusal(release: Release, place: Path, settings: Network) -> str:
    with pytest.raises(DownloadFailure) as caught:
        download(release, place, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def damaged(path: Path, at: int = 10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
