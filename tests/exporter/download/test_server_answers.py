"""Answers of a server that are no file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import get_ident

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import NOWHERE, Notes, network, refusal
from file_server import (
    Fault,
    FileServer,
    same_files,
)
from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    MERGES,
    STATE,
    Release,
)
from gpt2rt.errors import DownloadFailure
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.integrity import Receipt


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("403", "status 403 Forbidden"),
        ("404", "status 404 Not Found"),
        ("500", "status 500 Internal Server Error"),
        ("503", "status 503 Service Unavailable"),
        ("html", "a web page came in place of the file"),
        ("page", "the server has 54 bytes where the file has 16,896"),
        ("packed", "came packed as gzip, which was not asked for"),
        ("hang-up", "disconnected"),
        ("cut", "(16,896|8448|without sending complete)"),
        ("short", "the server has 8,448 bytes where the file has 16,896"),
        ("long", "the server has 25,345 bytes where the file has 16,896"),
    ],
)
def test_an_answer_that_is_no_file_is_named_and_changes_nothing(
    server: FileServer, release: Release, place: Path, kind: str, said: str
) -> None:
    server.always[DATA] = Fault(kind)
    with pytest.raises(DownloadFailure, match=said) as caught:
        download(release, place, network(server, retries=0))
    assert f"{DATA} cannot be fetched ({server.root}/124M: " in str(caught.value)
    under_both = f"; {server.root}/117M: " in str(caught.value)
    assert under_both is (kind in ("403", "404"))
    assert not (place / DATA).exists()
    assert same_files(place, server)
    del server.always[DATA]
    assert download(release, place, network(server)).fetched == (DATA,)


def test_a_file_that_is_nowhere_is_not_asked_for_again_and_again(
    server: FileServer, release: Release, place: Path
) -> None:
    server.always = {name: Fault("404") for name in (STATE, MERGES)}
    message = refusal(release, place, network(server, retries=5, backoff=60, longest_wait=60))
    assert f"{STATE}, {MERGES} cannot be fetched" in message
    assert f"put the files into {place} by hand" in message
    assert len(server.asked_for(STATE)) == 2  # under both names
    assert set(Receipt(place).untrusted()) == {STATE, MERGES, DATA}, "the others are in place"


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_are_counted_and_waits_grow(
    server: FileServer,
    release: Release,
    place: Path,
    retries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    real, thread = asyncio.sleep, get_ident()

    async def sleep(seconds: float) -> None:
        if get_ident() == thread:
            waits.append(seconds)
        else:  # a server of another test
            await real(seconds)

    monkeypatch.setattr("gpt2rt_export.fetch.transfer.asyncio.sleep", sleep)
    server.always[MERGES] = Fault("500")
    told = Notes()
    settings = network(server, retries=retries, backoff=1.0, longest_wait=60.0)
    with pytest.raises(DownloadFailure, match="status 500"):
        download(release, place, settings, told)
    waits = [wait for wait in waits if wait > 0.01]
    assert len(waits) == len(told.notes) == retries
    assert len(server.asked_for(MERGES)) == retries + 1
    for number, wait in enumerate(waits):
        assert 2**number / 2 <= wait <= 2**number


def test_what_holds_for_every_file_is_told_once(release: Release, place: Path) -> None:
    told = Notes()
    with pytest.raises(DownloadFailure) as caught:
        download(release, place, network(NOWHERE, retries=2), told)
    small = ", ".join(name for name in CHECKPOINT_FILES if name != DATA)
    wanted = f"{small} cannot be fetched ({NOWHERE}/124M: All connection attempts failed); "
    assert str(caught.value).startswith(wanted)
    assert len(told.notes) == 2
