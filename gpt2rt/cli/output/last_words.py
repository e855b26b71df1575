"""What is to be told should a library end this process without asking."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def last_words(line: str) -> Iterator[None]:
    """A context; should the process end inside it, `line` goes to standard error.

    Ray's library does so when the node of a program is gone. The line is written by a child that
    waits for its parent's end of a pipe to close. Nothing on Windows.
    """
    if not hasattr(os, "fork"):
        yield
        return
    waiting, held = os.pipe()  # which other children do not inherit
    child = os.fork()
    if child == 0:
        _wait(waiting, held, line)
    os.close(waiting)
    try:
        yield
    finally:
        os.write(held, b".")
        os.close(held)
        os.waitpid(child, 0)


def _wait(waiting: int, held: int, line: str) -> None:
    """What the child does; it does not return."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(held)
        if not os.read(waiting, 1):
            os.write(2, f"{line}\n".encode())
    finally:
        os._exit(0)
