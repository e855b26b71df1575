"""The access log: a line of JSON a request, in ASCII, without what clients send.

Lines are written by a thread of their own, so that a reader who does not read, such as a pager,
never holds up the server.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from queue import Full, Queue
from typing import TextIO

from gpt2rt.errors import reason

LINES = 10_000  # that may wait; more are lost, and counted


class AccessLog:
    """Writes records to `stream`; None: nowhere."""

    def __init__(self, stream: TextIO | None) -> None:
        self._lines: Queue[str | None] = Queue(LINES)
        self._lost = 0
        self._stream = stream
        self._thread = threading.Thread(target=self._write, name="access log", daemon=True)
        if stream is not None:
            self._thread.start()

    def add(self, record: Mapping[str, object]) -> None:
        """Add a line; never waits."""
        if self._stream is None:
            return
        if self._lost:
            record = {**record, "lost_lines": self._lost}
        try:
            self._lines.put_nowait(json.dumps(record, default=str) + "\n")
        except Full:
            self._lost += 1
        else:
            self._lost = 0

    def _write(self) -> None:
        assert self._stream is not None
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line)
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError) as error:
                print(f"gpt2rt: the access log ends: {reason(error)}", file=sys.stderr)
                self._stream = None
                return

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, for as long as `seconds`."""
        if self._thread.is_alive():
            try:
                self._lines.put(None, timeout=seconds)
            except Full:
                return
            self._thread.join(seconds)
