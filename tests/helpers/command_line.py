"""The command line, as the tests run it: in a process of its own, or as fixtures of `conftest`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EQUALS = "=" * 40  # beside the titles of samples
PROMPT = "Model prompt >>> "
MANY = ("-n", "3000", "--threads", "1")  # samples: far more than a test waits for
TEXT = 'Né 👋,\r\n"wörld" <b> 1'  # with all that a table, JSON or a page may get wrong

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.removesuffix("\n").split("\n")]

    def in_one_line(self) -> str:
        """The error: one line that begins with the program's name, and nothing besides."""
        assert self.out == ""
        assert self.err.startswith("gpt2rt: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1
        return self.err


Command = Callable[..., Ended]
Edit = Callable[..., None]


def start(*arguments: str | Path, **settings: Any) -> subprocess.Popen[bytes]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "gpt2rt", *map(str, arguments)]
    return subprocess.Popen(command, **{"stderr": subprocess.PIPE, **settings})


def finish(process: subprocess.Popen[bytes]) -> Ended:
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


def run_process(*arguments: str | Path, **settings: Any) -> Ended:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **settings}
    return finish(start(*arguments, **streams))
