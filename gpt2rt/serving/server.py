"""Runs a server until it is told to end, and lets running requests finish then."""

from __future__ import annotations

import gc
import math
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, TextIO

import uvicorn

from gpt2rt.errors import InvalidSetting
from gpt2rt.serving.app import application
from gpt2rt.serving.protocol import GuardedHttp
from gpt2rt.serving.service import Service
from gpt2rt.serving.settings import ServeSettings

KEEP_ALIVE = 30  # seconds that a connection may rest between requests
LAST = 1  # seconds that requests which are cut have to tell so, and connections to close


class DrainingServer(uvicorn.Server):
    """uvicorn, which at a signal takes no new requests, and ends when the others have ended.

    Its sockets stay open until then, so that clients are told, not refused. A second signal ends it
    at once.
    """

    def __init__(self, service: Service) -> None:
        protocol: Any = partial(GuardedHttp, settings=service.settings)
        config = uvicorn.Config(
            application(service),
            http=protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",  # with tracebacks; not what clients do wrong
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST,
        )
        super().__init__(config)
        self.service = service
        self._end = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self.drain()

    def drain(self) -> None:
        """Take no new requests, and end with the last one that runs."""
        self.service.draining = True
        self._end = time.monotonic() + self.service.settings.drain

    async def on_tick(self, counter: int) -> bool:
        service = self.service
        late = time.monotonic() > self._end
        if late:
            service.cut()
        if late or (service.draining and not service.in_flight) or service.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `InvalidSetting` if the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no host's name"
        raise InvalidSetting(f"cannot listen at {host!r} port {port}: {why}") from None


def url_of(listener: socket.socket) -> str:
    """Where a socket is reached by HTTP."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def warn_if_open(settings: ServeSettings, tell: Callable[[str], None]) -> None:
    """Tell who can use a server that listens beyond this machine and asks for no key."""
    if not (settings.loopback or settings.keys):
        tell(
            f"whoever reaches {settings.host} can use this server: "
            "give it a key with --api-key-file"
        )


def serve(
    settings: ServeSettings,
    log: TextIO | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. `log` takes the access log, `tell` what a person should know.

    Raises `InvalidSetting` for an address that cannot be had, and what loading a model raises.
    """

    def ready() -> None:
        gc.freeze()  # what is there now stays: looking for garbage in it would hold up everyone
        tell(f"serving {names} at {url_of(listener)}; Ctrl-C ends it")

    service = Service(settings, log, ready)
    names = ", ".join(served.name for served in service.models.all())
    with listen(settings.host, settings.port) as listener:
        if not settings.on_demand:
            tell(f"loading {names}")
        warn_if_open(settings, tell)
        DrainingServer(service).run([listener])
    if service.failure is not None:
        raise service.failure
