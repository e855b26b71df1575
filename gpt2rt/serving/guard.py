"""What every request passes before the application sees it.

In this order: an id; whether the server is ending; the host's name; the key; the type, size and
time of the body. After it: a line of the access log.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2rt.serving.faults import Fault, fault_of
from gpt2rt.serving.service import Service

OPEN = {"/", "/docs", "/health", "/ready"}  # without a key; and the files of the page
PAGE = "/page/"
WHILE_DRAINING = {"/health", "/ready", "/metrics"}
GRACE = 5.0  # seconds beyond its timeout in which a request may tell of its end
LEFT = 499  # the status, in the log, of an answer that nobody waited for


@dataclass(eq=False)
class Exchange:
    """A request and its answer, for the log; `send` passes the answer on.

    Endpoints find `id`, `owner` (the same for all requests of a client) and `notes` (what else
    shall stand in the log) in `request.state`.
    """

    scope: Scope
    below: Send
    id: str = field(default_factory=lambda: token_hex(12))
    began: float = field(default_factory=time.monotonic)
    status: int = LEFT
    sent: int = 0
    body: bytes = b""
    notes: dict[str, Any] = field(default_factory=dict)
    owner: str = ""

    def __post_init__(self) -> None:
        client = self.scope.get("client")
        self.owner = client[0] if client else ""
        state = self.scope.setdefault("state", {})
        self.id = state.get("id", self.id)  # of a proxy of this server's own
        state.update(id=self.id, owner=self.owner, notes=self.notes)

    @property
    def started(self) -> bool:
        """Whether the answer has begun."""
        return self.status != LEFT

    def header(self, name: bytes) -> str | None:
        """A field of the request's head; the first, if it is there several times."""
        values = (value for key, value in self.scope["headers"] if key == name)
        value = next(values, None)
        return None if value is None else value.decode("latin-1")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            named = (b"x-request-id", self.id.encode())
            message = {**message, "headers": [*message.get("headers", ()), named]}
        self.sent += len(message.get("body", b""))
        await self.below(message)

    def record(self, prompts: bool) -> dict[str, Any]:
        """The line of the log; with the body if `prompts`."""
        found = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": self.id,
            "client": self.owner,
            "method": self.scope["method"],
            "path": self.scope["path"],
            "status": self.status,
            "ms": round(1e3 * (time.monotonic() - self.began), 1),
            "bytes": self.sent,
            **self.notes,
        }
        return found | ({"body": self.body.decode("utf-8", "replace")} if prompts else {})


class Keys:
    """The keys of a server; which of them a client shows takes no part in how long it takes."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None) -> str:
        """The name of the key in a header `Authorization: Bearer KEY`, for logs. Raises `Fault`."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip().encode("latin-1", "replace")).digest()
        same = [hmac.compare_digest(digest, own) for own in self._digests]  # all, always
        if scheme.lower() != "bearer" or not any(same):
            raise Fault(
                401,
                "a key is missing or wrong: send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return f"key-{digest.hex()[:8]}"


class Guard:
    """The application `app`, for requests that pass."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self._service = service
        self._settings = service.settings
        self._keys = Keys(service.settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the start and the end
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        self._service.in_flight += 1
        try:
            await self._answer(exchange, receive)
        finally:
            self._service.in_flight -= 1
            self._service.record(exchange.record(self._settings.log_prompts), scope)

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        """Answer within the timeout; a reader who takes no more is cut off."""
        try:
            async with asyncio.timeout(self._settings.timeout + GRACE):
                try:
                    self._check_head(exchange)
                    exchange.body = await self._body(exchange, receive)
                except Fault as fault:
                    fault.headers["Connection"] = "close"  # the body is not read
                    await fault.response()(exchange.scope, receive, exchange.send)
                except ConnectionResetError:  # gone before it had asked
                    pass
                else:
                    again = _replayed(exchange.body, receive)
                    await self.app(exchange.scope, again, exchange.send)
        except TimeoutError:
            if not exchange.started:
                late = fault_of(TimeoutError())
                await late.response()(exchange.scope, receive, exchange.send)

    def _check_head(self, exchange: Exchange) -> None:
        """Raises `Fault` unless what the head says is right."""
        path, method = exchange.scope["path"], exchange.scope["method"]
        if self._service.draining and path not in WHILE_DRAINING:
            raise Fault(503, "the server is ending", code="draining", retry_after=5)
        host = exchange.header(b"host")
        open_here = self._settings.loopback and not self._keys
        if open_here and host is not None and not _local(host, self._settings.host):
            # A page of another site that let its name lead here, to be taken for this server's. It
            # has no key; proxies, which pass on such names, have their clients'.
            raise Fault(400, "this server is asked by the name localhost", code="wrong_host")
        if self._keys and not (
            method in ("GET", "HEAD") and (path in OPEN or path.startswith(PAGE))
        ):
            exchange.owner = self._keys.check(exchange.header(b"authorization"))
            exchange.scope["state"]["owner"] = exchange.owner
        kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            # A form of any web page may post other types without asking.
            raise Fault(415, "the Content-Type must be application/json", code="not_json")

    async def _body(self, exchange: Exchange, receive: Receive) -> bytes:
        """The whole body. Raises `Fault` if it is too large or too slow."""
        most = self._settings.body_bytes
        too_large = Fault(
            413, f"the body has more than {most:,} bytes, the limit", code="body_too_large"
        )
        if int(exchange.header(b"content-length") or 0) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.patience):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Fault(408, "the body of the request took too long", code="too_slow") from None
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body was read: that once more, then what comes after it."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return parts.pop() if parts else await receive()

    return again


def _local(host: str, own: str) -> bool:
    """Whether a Host field is this machine's own name or number."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("localhost", own) or ip_address(name).is_loopback
    except ValueError:  # another name, or none
        return False
