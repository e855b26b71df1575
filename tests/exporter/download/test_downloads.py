"""Downloads that have nothing against them: from a good server, offline, and the real files."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import NOWHERE, Notes, damaged, network, refusal, whole
from file_server import (
    FileServer,
)
from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    ENCODER,
    HPARAMS,
    INDEX,
    MERGES,
    STATE,
    Release,
)
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.integrity import fault
from models import SHARED

# ---- a server that behaves


def test_every_file_arrives_and_is_not_asked_for_again(
    server: FileServer, release: Release, place: Path
) -> None:
    told = Notes()
    done = download(release, place, network(server), told)
    assert set(done.fetched) == set(CHECKPOINT_FILES)
    assert whole(place, server)
    assert {n: told.last[n] for n in server.files} == {
        n: (len(data), len(data)) for n, data in server.files.items()
    }
    assert told.last[f"check {DATA}"] == (release.data_bytes, release.data_bytes)
    assert told.notes == []
    asked = len(server.asked)
    assert asked == len(CHECKPOINT_FILES)
    assert download(release, place, network(server)).fetched == ()
    assert download(release, place, network(NOWHERE)).fetched == ()
    assert len(server.asked) == asked


def test_what_was_checked_once_is_not_read_again(
    server: FileServer, release: Release, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(release, place, network(server))
    monkeypatch.setattr("gpt2rt_export.fetch.download.fault", None)  # would be called to check
    assert download(release, place, network(NOWHERE)).fetched == ()


@pytest.mark.parametrize("parallel", [1, 3])
def test_several_files_come_at_once_and_no_more_than_allowed(
    server: FileServer, release: Release, place: Path, parallel: int
) -> None:
    server.gate.clear()

    def open_when_full() -> None:
        until = time.monotonic() + 300
        while server.at_once < parallel and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # for those that should not come
        server.gate.set()

    opener = threading.Thread(target=open_when_full)
    opener.start()
    download(release, place, network(server, parallel=parallel))
    opener.join()
    assert server.most_at_once == parallel


def test_files_put_there_by_hand_are_checked_and_kept(
    server: FileServer, release: Release, place: Path, published: tuple[Path, Release]
) -> None:
    place.mkdir(parents=True)
    for name in (DATA, MERGES):
        shutil.copy(published[0] / name, place)
    done = download(release, place, network(server))
    assert set(done.fetched) == set(CHECKPOINT_FILES) - {DATA, MERGES}
    assert not server.asked_for(DATA)
    assert whole(place, server)


# ---- offline


def test_offline_needs_nothing_where_all_is_there(
    server: FileServer, release: Release, place: Path, published: tuple[Path, Release]
) -> None:
    offline = network(server, offline=True)
    message = refusal(release, place, offline)
    assert f"{', '.join(CHECKPOINT_FILES)} missing" in message
    assert not place.exists()
    shutil.copytree(published[0], place)
    (place / MERGES).unlink()
    damaged(place / DATA)
    message = refusal(release, place, offline)
    assert f"{place}: {MERGES} missing; {DATA}: damaged in model/h0/attn/c_attn/b" in message
    assert "`gpt2rt download 117M` with a network" in message
    for name in (MERGES, DATA):
        shutil.copy(published[0] / name, place)
    assert download(release, place, offline).fetched == ()
    assert server.asked == []


# ---- the real files


def real(folder: str, name: str) -> Path:
    path = SHARED / folder / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("gpt2-117M-meta", STATE),
        ("gpt2-117M-meta", HPARAMS),
        ("gpt2-117M-meta", INDEX),
        ("gpt2-vocab", ENCODER),
        ("gpt2-vocab", MERGES),
    ],
)
def test_the_real_files_are_found_good(folder: str, name: str) -> None:
    path = real(folder, name)
    small, *larger = catalog.RELEASES
    assert fault(name, path, small, path.parent) is None
    unknown = replace(small, known={})
    if folder == "gpt2-117M-meta":
        assert fault(name, path, unknown, path.parent) is None, "by what it holds, too"
    for release in larger:
        own = name in (HPARAMS, INDEX)
        assert bool(fault(name, path, release, path.parent)) is own


def test_the_sizes_of_the_releases_are_those_of_their_shapes() -> None:
    for release in catalog.RELEASES:
        shapes = release.hparams.variables().values()
        assert release.size(DATA) == sum(4 * math.prod(shape) for shape in shapes)


def test_a_download_where_a_loop_runs_already_as_in_a_notebook(
    server: FileServer, release: Release, place: Path
) -> None:
    async def cell() -> None:
        download(release, place, network(server))

    asyncio.run(cell())
    assert whole(place, server)
