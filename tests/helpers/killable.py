"""Downloads in processes that are killed at a moment given, a few milliseconds after their start.

One process with everything imported forks a child for each; so 300 kills take minutes, not hours.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from file_server import FileServer, same_files
from gpt2rt.bundles.catalog import Release
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.integrity import Receipt
from gpt2rt_export.fetch.network import Network

PAUSE = 0.01  # seconds between two pieces of the server: a download takes a fifth of a second
LONGEST_LIFE = 0.3  # seconds


class Killer:
    """Starts downloads of one release and kills them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def kill(self, directory: Path, root: str, seconds: float) -> bool:
        """Kill a download after some seconds; returns whether it was at work then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(directory), root, seconds]), file=self._process.stdin, flush=True)
        return bool(json.loads(self._process.stdout.readline()))


@contextmanager
def killer(release: Release, folder: Path) -> Iterator[Killer]:
    """The process that forks, for as long as this lasts."""
    path = folder / "release.pickle"
    path.write_bytes(pickle.dumps(release))
    command = [sys.executable, __file__, str(path)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **streams) as process:  # type: ignore[call-overload]
        yield Killer(process)


def trial(kills: Killer, server: FileServer, release: Release, place: Path, random: Random) -> int:
    """Kill downloads into one directory until one ends in time; returns how many were killed.

    After each kill nothing half lies in place and no half is trusted; at last a download succeeds.
    """
    server.pause = PAUSE
    killed = 0
    while kills.kill(place, server.root, random.uniform(0.0, LONGEST_LIFE)):
        killed += 1
        assert same_files(place, server)
        receipt = Receipt(place)
        assert all(receipt.trusts(name) <= (place / name).is_file() for name in server.files)
        if random.random() < 0.5:  # the other half goes on where several kills have left it
            break
    server.pause = 0.0
    download(release, place, Network(mirrors=(server.root,), backoff=0.001))
    assert Receipt(place).untrusted() == []
    assert {name: (place / name).read_bytes() for name in server.files} == server.files
    return killed


def _serve(release: Release) -> None:
    """Fork, wait, kill, say whether there was anything to kill; once a line of standard input."""
    for line in sys.stdin:
        directory, root, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            download(release, Path(directory), Network(mirrors=(root,), backoff=0.001))
            os._exit(0)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.WIFSIGNALED(status)), flush=True)


if __name__ == "__main__":
    _serve(pickle.loads(Path(sys.argv[1]).read_bytes()))
