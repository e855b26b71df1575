"""The memory that a job on a cluster of this machine takes, and its parts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from gpt2rt.errors import Gpt2rtError

COMMANDS = ("tokenize", "score", "embed")
PAUSE = 0.2  # seconds between two looks


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The most that was seen at one time, in bytes: of the command, of all its processes.

    `store` is what they share, most of which is Ray's store of objects.
    """

    texts: int
    file: int
    seconds: float
    command: int
    processes: int
    store: int

    def __str__(self) -> str:
        held = f"{self.texts:,} texts ({self.file / 1e6:,.0f} MB): {self.seconds:,.0f} s"
        own = f"command {self.command / 1e6:,.0f} MB, all processes {self.processes / 1e6:,.0f} MB"
        return f"{held}; {own}, shared {self.store / 1e6:,.0f} MB"


def peak(model: str, command: str, texts: int) -> PeakMemory:
    """Run a command with `--ray` over so many texts. Raises `Gpt2rtError` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"Text {n} of many, which says that.\n" for n in range(texts))
        arguments = ["--model", model, "--file", str(file), "--lines", "--ray"]
        began = time.perf_counter()
        run = subprocess.Popen(
            [sys.executable, "-m", "gpt2rt", command, *arguments, "--output", f"{folder}/out/"]
        )
        most = (0, 0, 0)
        while run.poll() is None:
            most = tuple(map(max, most, _looked_at(run.pid)))  # type: ignore[assignment]
            time.sleep(PAUSE)
        took = time.perf_counter() - began
        if run.returncode:
            raise Gpt2rtError(f"gpt2rt {command} failed with exit code {run.returncode}")
        return PeakMemory(texts, file.stat().st_size, took, *most)


def _looked_at(pid: int) -> tuple[int, int, int]:
    """Bytes of a process alone, of all below it, and what the largest of those shares."""
    command = processes = shared = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                found = one.memory_info()
                own = found.rss - found.shared
                command = own if one.pid == pid else command
                processes += own
                shared = max(shared, found.shared)
    return command, processes, shared
