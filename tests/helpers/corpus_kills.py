"""A job on a cluster of two nodes, in which processes are killed while it runs.

The law: whatever is killed, the job, begun again where its own process was killed, ends with the
bytes of the plain command.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from ray_clusters import TwoNodes

KINDS = ("actor", "worker", "node", "driver")
COMMAND = [sys.executable, "-m", "gpt2rt"]
LONGEST = 180.0  # seconds in which a run has to bring another part
ACTOR = "ray::MapWorker"  # how Ray calls the process of an actor of Ray Data's


def write_corpus(path: Path, rows: int) -> None:
    """Short texts, one a line; some cannot be scored."""
    people = ("king", "miller", "fox", "old fisherman")
    lines = [f"Once there was a {people[i % 4]} who had {i} sons." for i in range(rows)]
    lines[::97] = ["x" * 9000] * len(lines[::97])
    path.write_text("\n".join(lines))


@dataclass
class KilledJob:
    """Runs of a job, one after the other; `kills` counts what was killed."""

    cluster: TwoNodes
    folder: Path
    rows: int = 6000
    part_rows: int = 100
    kills: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    runs: int = 0

    def __post_init__(self) -> None:
        write_corpus(self.folder / "in.txt", self.rows)
        self._expected = self.folder / "plain"
        self._run(self._expected, "--threads", "2").wait()
        assert (self._expected / "_rejects.jsonl").is_file()
        self._output = self.folder / "clustered"
        self._driver: subprocess.Popen[bytes] | None = None

    def _run(self, output: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [*COMMAND, "score", "--model", "demo", "--lines", "--file", "in.txt"]
        command += ["--output", f"{output}/", "--part-rows", str(self.part_rows), *options]
        with (self.folder / "stderr.txt").open("ab") as told:
            return subprocess.Popen(command, cwd=self.folder, stderr=told)

    def survive(self, kinds: Iterable[str], random: Random) -> None:
        """Kill one of each of `kinds` while a job runs; where it ends, another one begins."""
        for kind in kinds:
            self._wait_for_parts(random.randint(1, 4))
            time.sleep(random.uniform(0, 0.3))
            self._kill(kind, random)

    def end(self) -> None:
        """Let the job come to its end."""
        ended = self.jobs
        while self.jobs == ended:
            self._wait_for_parts(1)

    def _parts(self) -> int:
        with suppress(OSError):
            return len((self._output / "_manifest.jsonl").read_bytes().splitlines())
        return 0

    def _wait_for_parts(self, count: int) -> None:
        """Wait until a job has made so many parts more, or has ended."""
        if self._driver is None:
            self.cluster.repair()
            self._driver = self._run(self._output, "--ray", self.cluster.address)
            self.runs += 1
        wanted, until = self._parts() + count, time.monotonic() + LONGEST
        while self._parts() < wanted and self._driver.poll() is None:
            assert time.monotonic() < until, f"no part came: {self.told()}"
            time.sleep(0.05)
        self._ended()

    def _ended(self) -> bool:
        """Whether the job is done; then its output is compared, and the next one is another."""
        if self._driver is None or (code := self._driver.poll()) is None:
            return False
        self._driver = None
        if code != 1 or not is_complete(self._output):  # 1: there are rejects
            return False
        compare(self._expected, self._output)
        shutil.rmtree(self._output)
        self.jobs += 1
        return True

    def _kill(self, kind: str, random: Random) -> None:
        if kind == "node":
            self.cluster.replace_node()
        elif kind == "driver" and self._driver is not None:
            self._driver.send_signal(signal.SIGKILL)
            self._driver.wait()
        elif kind in ("actor", "worker"):
            found = self.cluster.workers(ACTOR if kind == "actor" else "ray::")
            if not found:
                return
            with suppress(psutil.Error):
                random.choice(found).kill()
        self.kills[kind] = self.kills.get(kind, 0) + 1

    @property
    def figures(self) -> str:
        kills = ", ".join(f"{count} of a {kind}" for kind, count in sorted(self.kills.items()))
        return f"killed: {kills}; {self.jobs} jobs of {self.rows:,} rows in {self.runs} runs"

    def told(self) -> str:
        return (self.folder / "stderr.txt").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        if self._driver is not None:
            self._driver.kill()
            self._driver.wait()


def is_complete(output: Path) -> bool:
    manifest = output / "_manifest.jsonl"
    return manifest.is_file() and b'"complete": true' in manifest.read_bytes().splitlines()[-1]


def files_of(output: Path) -> dict[str, bytes]:
    """The files of an output, without the lines of the manifest's parts, whose order is free."""
    found = {path.name: path.read_bytes() for path in output.iterdir()}
    lines = found.pop("_manifest.jsonl").splitlines()
    return {**found, "_manifest.jsonl": b"\n".join([lines[0], *sorted(lines[1:-1]), lines[-1]])}


def compare(expected: Path, output: Path) -> None:
    """The same files with the same bytes: no row lost, none twice, no half part."""
    one, other = files_of(expected), files_of(output)
    assert sorted(one) == sorted(other)
    for name in one:
        assert one[name] == other[name], name
