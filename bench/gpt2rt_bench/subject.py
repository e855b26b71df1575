"""Starts, asks and closes a worker process: the parent's side of `gpt2rt_bench.protocol`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from gpt2rt.errors import Gpt2rtError
from gpt2rt_bench.protocol import Answer, Ready

PATIENCE = 5.0  # seconds that a worker may take to end after its input ends


class SubjectFailed(Gpt2rtError):
    """A worker process that could not load its model, or that ended too early."""


class Subject:
    """A worker process with its model loaded. Close it, or use it as a context manager.

    `name` is for messages; `start_ms` is the time from the start of the process until its model was
    ready.
    """

    name: str
    ready: Ready
    start_ms: float

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command`, with `environment` over this process's own, and wait for its model.

        Raises `SubjectFailed`.
        """
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        began = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **(environment or {})},
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            self._errors.close()
            raise SubjectFailed(f"{name}: {command[0]}: {error.strerror}") from None
        try:
            self.ready = Ready(**self._message()["ready"])
        except BaseException:
            self.close()
            raise
        self.start_ms = (time.perf_counter() - began) * 1e3

    def ask(self, prompts: Sequence[Sequence[int]], steps: int) -> Answer:
        """`steps` greedy tokens after each of the prompts. Raises `SubjectFailed`."""
        assert self._process.stdin is not None
        with suppress(OSError):  # the reason is in the last lines it printed
            print(json.dumps({"prompts": prompts, "steps": steps}), file=self._process.stdin)
            self._process.stdin.flush()
        return Answer(**self._message())

    def close(self) -> None:
        """Wait for the worker to end, and kill it where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _message(self) -> dict[str, Any]:
        """The worker's next message. Raises `SubjectFailed` for an error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        message: dict[str, Any] = json.loads(line) if line else {"error": self._reason_of_end()}
        if "error" in message:
            raise SubjectFailed(f"{self.name}: {message['error']}")
        return message

    def _reason_of_end(self) -> str:
        """How a worker ended without a message: its exit code and the last line it printed."""
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return ": ".join([f"the worker {how}", *last])


def signal_name(number: int) -> str:
    """The name of a signal, with its likely cause where there is one."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    meant = {"SIGILL": "compiled for another processor", "SIGKILL": "out of memory, perhaps"}
    return f"{name} ({meant[name]})" if name in meant else name
