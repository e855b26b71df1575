"""Transfers that break off go on where they were, whatever happens and whenever."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import Notes, network, refusal, whole
from faulty import fault_sequence
from file_server import (
    Fault,
    FileServer,
)
from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    INDEX,
    MERGES,
    Release,
)
from gpt2rt.errors import DownloadFailure
from gpt2rt_export.fetch.download import download

SEQUENCES = 40  # of random faults; `make soak` runs 200
KILLS = 20  # `make soak` runs 300


def broken_off(server: FileServer, release: Release, place: Path, name: str, part: float) -> int:
    """Let the transfer of one file break off; returns the bytes that are kept of it."""
    server.always[name] = Fault("cut", part)
    assert name in refusal(release, place, network(server, retries=0))
    del server.always[name]
    server.asked.clear()
    assert not (place / name).exists()
    return (place / f".{name}.partial").stat().st_size


@pytest.mark.parametrize("name", [DATA, INDEX])
@pytest.mark.parametrize("validates", [True, False])
def test_a_transfer_goes_on_where_it_broke_off(
    server: FileServer, release: Release, place: Path, name: str, validates: bool
) -> None:
    """Unless the file could have become another one meanwhile: no ETag, and no known size."""
    server.validates = validates
    size = len(server.files[name])
    held = broken_off(server, release, place, name, 0.5)
    assert held == size // 2
    download(release, place, network(server))
    asked = server.asked_for(name)
    assert asked == [f"bytes={held}-" if validates or name == DATA else None]
    assert whole(place, server)


def test_cut_after_cut_costs_no_retries_as_long_as_bytes_come(
    server: FileServer, release: Release, place: Path
) -> None:
    server.always[DATA] = Fault("cut", 0.2)  # of what is left, so the last byte takes longest
    told = Notes()
    with pytest.raises(DownloadFailure):
        download(release, place, network(server, retries=1), told)
    assert len(server.asked_for(DATA)) > 20
    server.always.clear()
    download(release, place, network(server, retries=1), told)
    assert whole(place, server)
    assert any("trying again in" in note for note in told.notes)


def test_a_file_that_changed_is_fetched_from_its_start(
    server: FileServer, release: Release, place: Path
) -> None:
    broken_off(server, release, place, INDEX, 0.5)
    partial = place / f".{INDEX}.partial"
    partial.write_bytes(bytes(partial.stat().st_size))  # of the file as it was
    server.tag = '"later"'
    download(release, place, network(server, retries=0))
    assert whole(place, server)
    assert len(server.asked_for(INDEX)) == 1


@pytest.mark.parametrize("kind", ["no-range", "416", "other-part", "500", "html", "short"])
def test_a_server_that_is_bad_at_ranges_still_delivers(
    server: FileServer, release: Release, place: Path, kind: str
) -> None:
    broken_off(server, release, place, DATA, 0.5)
    server.faults = [Fault(kind)]
    download(release, place, network(server))
    assert whole(place, server)


@pytest.mark.parametrize("name", [DATA, INDEX, MERGES])
@pytest.mark.parametrize("surplus", [b"", b"more"])
def test_a_partial_that_is_whole_or_too_long(
    server: FileServer, release: Release, place: Path, name: str, surplus: bytes
) -> None:
    broken_off(server, release, place, name, 0.5)
    (place / f".{name}.partial").write_bytes(server.files[name] + surplus)
    download(release, place, network(server))
    assert whole(place, server)
    if not surplus and release.size(name):
        assert not server.asked_for(name)


def test_a_partial_of_rubbish_ends_well(server: FileServer, release: Release, place: Path) -> None:
    place.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        (place / f".{name}.partial").write_bytes(b"\0" * (len(server.files[name]) // 2))
        (place / f".{name}.partial.json").write_text("rubbish")
    download(release, place, network(server))
    assert whole(place, server)


def test_another_location_goes_on_with_what_the_first_began(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    server.always[DATA] = Fault("cut", 0.5)
    download(release, place, network(server, second))
    assert server.asked_for(DATA) == [None]
    assert second.asked_for(DATA) == ["bytes=8448-"]
    assert whole(place, second)


def test_a_stall_is_told_and_ended(server: FileServer, release: Release, place: Path) -> None:
    server.faults = [Fault("stall")]
    told = Notes()
    # Many retries: a slow machine may look like a server that stalls.
    download(release, place, network(server, stall_timeout=0.3, retries=1000), told)
    assert whole(place, server)
    server.always[DATA] = Fault("stall", 0.0)
    (place / DATA).unlink()
    message = refusal(release, place, network(server, stall_timeout=0.2, retries=0))
    assert f"{DATA} cannot be fetched" in message
    assert "nothing came for 0.2 s" in message


# ---- chance


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_random_faults(server: FileServer, release: Release, place: Path, seed: int) -> None:
    fault_sequence(server, release, place, Random(f"fault {seed}"))


@pytest.mark.slow
def test_kills_at_random_moments(
    server: FileServer, release: Release, tmp_path: Path, place: Path
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    from killable import killer, trial

    with killer(release, tmp_path) as kills:
        killed = number = 0
        while killed < KILLS:
            target = place.with_name(f"{number}")
            killed += trial(kills, server, release, target, Random(f"kill {number}"))
            number += 1
