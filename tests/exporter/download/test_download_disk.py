"""Disks that are full, and places that cannot be written to."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import network, refusal, whole
from file_server import (
    FileServer,
)
from gpt2rt.bundles.catalog import (
    DATA,
    Release,
)
from gpt2rt_export.fetch.download import download


def test_too_little_space_is_told_before_anything_is_asked(
    server: FileServer, release: Release, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    large = replace(release, name="1542M", data_bytes=6_230_444_800)
    message = refusal(large, place, network(server))
    assert "1542M needs 6,234.6 MB, 3,000.0 MB are free; make room" in message
    assert server.asked == []
    download(release, place, network(server))


def test_a_disk_that_fills_up_keeps_what_came(
    server: FileServer, release: Release, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after half of the data file."""
    real = Path.open

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 8000:
                super().write(data[: 8000 - self.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def open_(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return (
            Full(path, mode)
            if DATA in path.name and mode == "ab"
            else real(path, mode, *rest, **named)
        )

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_)
        message = refusal(release, place, network(server))
    assert "no space left, " in message
    assert "what came is kept" in message
    assert download(release, place, network(server)).fetched == (DATA,)
    assert server.asked_for(DATA)[-1] == "bytes=8000-"
    assert whole(place, server)


def test_a_place_that_cannot_be_written(
    server: FileServer, release: Release, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    message = refusal(release, tmp_path / "file" / "117M", network(server))
    assert "cannot be written (" in message
    assert "GPT2RT_HOME" in message


def test_a_place_without_permission(server: FileServer, release: Release, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("a user who may write everywhere")
    assert "Permission denied" in refusal(release, tmp_path / "locked" / "117M", network(server))
