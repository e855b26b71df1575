"""A download from a server that misbehaves at random, and what must hold however it does."""

from __future__ import annotations

from pathlib import Path
from random import Random

from file_server import FileServer, random_faults, same_files
from gpt2rt.bundles.catalog import Release
from gpt2rt.errors import DownloadFailure
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.integrity import Receipt
from gpt2rt_export.fetch.network import Network

MOST = 8  # faults of a sequence: no more than the retries
STALL = 1.0  # seconds until a client gives up
PATIENT = 300.0  # where nothing stalls: a slow machine must not look like a fault


class Watch:
    """Looks at the directory each time that the download has something to say."""

    def __init__(self, place: Path, server: FileServer) -> None:
        self._place, self._server = place, server

    def bytes_done(self, name: str, done: int, total: int | None) -> None:
        pass

    def note(self, text: str) -> None:
        assert same_files(self._place, self._server)
        assert "\n" not in text


def fault_sequence(
    server: FileServer, release: Release, place: Path, random: Random
) -> tuple[int, int]:
    """One random sequence of faults; returns their number, and how many runs gave up on them.

    Never does a wrong file come into place. The download succeeds within its retries, unless every
    location of a file says in a row that there is no such file; then the next one succeeds.
    """
    server.faults = random_faults(random, MOST)
    kinds = [fault.kind for fault in server.faults]
    stall = STALL if "stall" in kinds else PATIENT
    network = Network(
        mirrors=(server.root,), retries=MOST, backoff=0.001, longest_wait=0.01, stall_timeout=stall
    )
    refused, reason = 0, ""
    while Receipt(place).untrusted():
        try:
            download(release, place, network, Watch(place, server))
        except DownloadFailure as error:
            refused += 1
            reason = str(error)
        assert same_files(place, server)
        assert kinds.count("404") >= 2 * refused, f"{kinds}: {reason}"
        assert refused == 0 or "status 404" in reason
    assert {name: (place / name).read_bytes() for name in server.files} == server.files
    assert not list(place.glob("*.partial*"))
    return len(kinds), refused
