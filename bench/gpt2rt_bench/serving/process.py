"""`gpt2rt serve` as a process: starts it, waits until it is ready, reads its counts, kills it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from gpt2rt_bench.subject import SubjectFailed

PATIENCE = 120.0  # seconds to be ready
LAST = 10.0  # seconds to end
POLL = 0.005  # seconds between two looks
_direct = build_opener(ProxyHandler({}))


class ServerProcess:
    """A server of one model, on a free port. Close it, or use it as a context manager.

    `url` is where it listens; `start_seconds` the time from its start until it was ready.
    """

    url: str
    start_seconds: float

    def __init__(self, model: Path, options: Sequence[str] = ()) -> None:
        """Start `gpt2rt serve` with `options`, and wait. Raises `SubjectFailed`."""
        command = [sys.executable, "-m", "gpt2rt", "serve", str(model)]
        self._folder = tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name) / "stderr"
        began = time.perf_counter()
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, "--port", "0", "--no-access-log", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        try:
            self._wait(began + PATIENCE)
        except BaseException:
            self.kill()
            raise
        self.start_seconds = time.perf_counter() - began

    def _wait(self, end: float) -> None:
        self.url = ""
        while not self.url or fetched(f"{self.url}/ready") is None:
            said = self._said.read_text("utf-8", "replace")
            if self._process.poll() is not None or time.perf_counter() > end:
                last = (said.splitlines() or ["it printed nothing"])[-1]
                raise SubjectFailed(f"gpt2rt serve is not ready ({last[:300]})")
            if found := re.search(r" at (http://\S+:\d+);", said):
                self.url = found[1]
            time.sleep(POLL)

    def kill(self) -> None:
        """End it at once, whatever it does (SIGKILL)."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def close(self) -> None:
        """Let it end."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST)
        self.kill()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def fetched(url: str) -> str | None:
    """What is at an address; None if it does not answer with status 200."""
    try:
        with _direct.open(url, timeout=LAST) as answer:
            found: bytes = answer.read()
            return found.decode()
    except (URLError, OSError):
        return None


def model_at(url: str) -> dict[str, str]:
    """The field of requests that names the first model of a server; none if it lists no models."""
    with suppress(ValueError, LookupError, TypeError):
        return {"model": json.loads(fetched(f"{url}/v1/models") or "")["data"][0]["id"]}
    return {}


def own_seconds(url: str) -> float | None:
    """CPU seconds that a server of gpt2rt took so far for itself: all but the steps of models.

    None for other servers.
    """
    counts = fetched(f"{url}/metrics") or ""
    python = re.search(r"^gpt2rt_python_seconds (\S+)$", counts, re.M)
    models = re.findall(r"^gpt2rt_model_seconds_total{.*} (\S+)$", counts, re.M)
    return float(python[1]) - sum(map(float, models)) if python else None
