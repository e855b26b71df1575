"""A client of one connection that streams texts and notes when their parts come.

It reads no more of HTTP than a stream has, and the JSON of the events only when a text has ended:
a client of many features would take more of the machine than the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from gpt2rt_bench.subject import SubjectFailed

PATH = "/v1/completions"


@dataclass(frozen=True, slots=True)
class StreamedText:
    """When a text was asked for and when its parts came, in seconds of one clock; its tokens."""

    began: float
    arrivals: list[float]
    tokens: int

    @property
    def first_ms(self) -> float:
        """Milliseconds until the first part."""
        return 1e3 * (self.arrivals[0] - self.began)

    @property
    def between_ms(self) -> list[float]:
        """Milliseconds from each part to the next."""
        return [1e3 * (later - earlier) for earlier, later in pairwise(self.arrivals)]

    @property
    def token_ms(self) -> float:
        """Milliseconds a token after the first, in the mean."""
        return 1e3 * (self.arrivals[-1] - self.arrivals[0]) / max(1, self.tokens - 1)


class StreamClient:
    """A connection to the server at `url`, used for one text after another."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or "localhost"
        self._port = parts.port or 80
        self._path = parts.path.rstrip("/").removesuffix("/v1") + PATH
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> StreamClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._streams is not None:
            self._streams[1].close()

    async def stream(self, body: Mapping[str, Any]) -> StreamedText:
        """A text, streamed. Raises `SubjectFailed` for an error of the server or connection."""
        content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
        try:
            began = time.perf_counter()
            chunks = self._chunks(content.encode())
            received = [(time.perf_counter(), chunk) async for chunk in chunks]
        except (OSError, EOFError, ValueError) as error:
            raise SubjectFailed(f"{self.url}: {type(error).__name__}: {error}") from None
        return self._text(began, received)

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        """The parts of the answer's body as they come."""
        reader, status, fields = await self._asked(content)
        if status != 200:
            size = int(fields.get("content-length", 0))
            told = (await reader.readexactly(size)).decode("utf-8", "replace")
            raise SubjectFailed(f"{self.url}: status {status}: {told[:300]}")
        if fields.get("transfer-encoding", "").lower() != "chunked":
            raise SubjectFailed(f"{self.url}: the answer is not sent in chunks")
        while size := int((await reader.readline()).strip() or b"?", 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)  # the end of the line after it
        await reader.readline()

    async def _asked(self, content: bytes) -> tuple[asyncio.StreamReader, int, dict[str, str]]:
        """Send a request; returns where the body comes from, the status and the fields."""
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        used = self._streams is not None
        reader, writer = self._streams = self._streams or await asyncio.open_connection(
            self._host, self._port
        )
        writer.write(head.encode() + content)
        try:
            return reader, *await _head(reader)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if not used or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                raise
        writer.close()  # the server closed it after the last answer
        self._streams = None
        return await self._asked(content)

    def _text(self, began: float, received: list[tuple[float, bytes]]) -> StreamedText:
        """The times of the events that have text. Raises `SubjectFailed` unless the text ended."""
        arrivals, tokens, rest, done = [], 0, b"", False
        for at, chunk in received:
            *whole, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
            done = done or b"data: [DONE]" in whole
            for event in map(_data, whole):
                if "error" in event:
                    raise SubjectFailed(f"{self.url}: {str(event['error'])[:300]}")
                if any(choice.get("text") for choice in event.get("choices") or ()):
                    arrivals.append(at)
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        if not done:
            raise SubjectFailed(f"{self.url}: a stream ended without [DONE]")
        if not arrivals:  # only control tokens: they are over when the stream is
            arrivals = [received[-1][0]]
        return StreamedText(began, arrivals, tokens or len(arrivals))


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the fields of an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    parted = [line.partition(":") for line in lines if line]
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in parted}


def _data(event: bytes) -> dict[str, Any]:
    """The object of an event; empty for `[DONE]` and comments."""
    found: dict[str, Any] = {}
    with suppress(ValueError):
        value = json.loads(event.strip().removeprefix(b"data:"))
        found = value if isinstance(value, dict) else found
    return found
