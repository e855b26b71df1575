"""HTTP as uvicorn reads it, with limits on what a client may send before its request is known.

Heads of requests have a most size and a most time, connections a most number. Bodies are the
business of `gpt2rt.serving.guard`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gpt2rt.serving.ascii_json import ascii_json
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.settings import ServeSettings

HEAD_BYTES = 32 << 10
FIELDS = 100  # in a head
MOST_CONNECTIONS = 800  # below the 1,024 files that a process may commonly open
CHUNKED = 8  # a body in chunks of a byte takes six times its size


class GuardedHttp(HttpToolsProtocol):
    """A connection whose client has to send heads of a reasonable size in a reasonable time."""

    def __init__(self, *, settings: ServeSettings, **given: Any) -> None:
        super().__init__(**given)
        self._patience = settings.patience
        self._longest = settings.timeout
        self._most = HEAD_BYTES + CHUNKED * settings.body_bytes  # of a whole request
        self._timer: asyncio.TimerHandle | None = None  # runs while a head is awaited
        self._reader: asyncio.TimerHandle | None = None  # runs while the client takes nothing
        self._fault: Fault | None = None
        self._in_head = True
        self._received = 0  # bytes of the request so far
        self._fields = self._field_bytes = 0

    # ---- asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(Fault(503, "too many connections", code="overloaded", retry_after=1))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Even a closed connection stays as long as its client does not take what is left.
        self._reader = self.loop.call_later(self._longest, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reader()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._await_head()
        self._received += len(data)
        super().data_received(data)
        if self._in_head and self._received > HEAD_BYTES:
            self._refuse(_too_large())
        elif self._received > self._most:
            self._refuse(Fault(413, "the request is too large", code="body_too_large"))

    # ---- the parser's callbacks

    def on_message_begin(self) -> None:
        self._fields = self._field_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._field_bytes += len(name) + len(value)
        if self._fields > FIELDS or self._field_bytes > HEAD_BYTES:
            self._fault = _too_large()
            raise self._fault  # uvicorn calls `send_400_response`
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._received = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for what is no HTTP, and for what the callbacks above refuse."""
        self._refuse(self._fault or Fault(400, "this is no HTTP request", code="invalid_http"))

    # ----

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._patience, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _too_late(self) -> None:
        if self._received:
            self._refuse(Fault(408, "the head of the request took too long", code="too_slow"))
        else:  # browsers open connections in reserve
            self.transport.close()

    def _refuse(self, fault: Fault) -> None:
        """Answer and close; where another answer is under way only close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = ascii_json(fault.body())
        fields = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **fault.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(STATUS_LINE[fault.status] + lines.encode("ascii") + b"\r\n" + body)
        self.transport.close()


def _too_large() -> Fault:
    why = f"the head of the request has more than {HEAD_BYTES} bytes or {FIELDS} fields"
    return Fault(431, why, code="head_too_large")
