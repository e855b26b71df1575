"""Answers that notice when their client leaves: streams of events, and work to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from gpt2rt.serving.ascii_json import ascii_json
from gpt2rt.serving.faults import Fault, fault_of
from gpt2rt.serving.service import Service

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
LEFT = 499  # nginx's status for a client that left; nobody reads it
# An event, for the OpenAPI description.
EVENT = {
    "type": "object",
    "properties": {
        "data": {"type": "string", "description": "A part of the answer as JSON, or `[DONE]`."}
    },
    "required": ["data"],
}
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(body: bytes) -> bytes:
    """A server-sent event with a line of data."""
    return b"data: " + body + b"\n\n"


class EventStream(Response):
    """Sends parts of a stream as they come, each by one `send`, then `[DONE]`.

    An error becomes the last event, without `[DONE]`. When the client leaves, or `limit` ends, the
    parts are closed, so that their work ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        others: AsyncGenerator[bytes, None],
        limit: AbstractAsyncContextManager[None],
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._first = first
        self._others = others
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(receive, self._send(send, scope["state"]["id"]))
        except ClientLeft:
            pass
        finally:
            await self._others.aclose()

    async def _send(self, send: Send, place: str) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def write(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        last = DONE
        try:
            async with self._limit:
                await write(self._first)
                async for part in self._others:
                    await write(part)
        except Exception as error:
            fault = fault_of(error, place)
            last = event(ascii_json(fault.body()))
            if fault.status == 500:
                await write(last, more=False)
                raise
        await write(last, more=False)


class ClientLeft(Fault):
    """The client closed the connection, or its half of it."""

    def __init__(self) -> None:
        super().__init__(LEFT, "the client left")


async def while_there(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves.

    Raises `ClientLeft` then. The request's body must have been read.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def in_time(request: Request, service: Service, work: Awaitable[T]) -> T:
    """The result of `work`, while the client is there and for as long as a request may take."""
    async with service.limit(service.deadline()):
        return await while_there(request.receive, work)
