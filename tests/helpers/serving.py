"""A server of small models in this process: uvicorn in a thread, on a port of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gpt2rt.serving.app import application
from gpt2rt.serving.guard import Guard
from gpt2rt.serving.server import DrainingServer, listen, url_of
from gpt2rt.serving.service import Service
from gpt2rt.serving.settings import ServeSettings

LIMIT = 120.0  # seconds to wait for what has to come: a machine may have much else to do


class RunningServer:
    """A server that listens; `url` is where, `log` its access log."""

    def __init__(self, settings: ServeSettings, loop: str = "auto") -> None:
        self.log = io.StringIO()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.service = Service(settings, self.log, self._loaded)
        self.listener = listen(settings.host, settings.port)
        self.port: int = self.listener.getsockname()[1]
        self.url = url_of(self.listener)
        self.server = DrainingServer(self.service)
        self.server.config.loop = loop
        self.thread = threading.Thread(target=self.server.run, args=[[self.listener]], daemon=True)
        self.thread.start()
        wait_until(lambda: self._ready or not self.thread.is_alive())

    def _loaded(self) -> None:
        self.loop = asyncio.get_running_loop()

    @property
    def _ready(self) -> bool:
        return self.server.started and self.service.state == "ready"

    def client(self, **settings: object) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=LIMIT, **settings)  # type: ignore[arg-type]

    @property
    def app(self) -> FastAPI:
        """The endpoints, to which a test may add its own."""
        guard = self.server.config.app
        assert isinstance(guard, Guard)
        assert isinstance(guard.app, FastAPI)
        return guard.app

    def socket(self, sent: bytes = b"") -> socket.socket:
        """A connection, on which `sent` was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        connection.sendall(sent)
        return connection

    def pass_time(self) -> None:
        """Whatever waits for a time, in a server of the loop "asyncio", has waited enough."""
        assert self.loop is not None
        pass_time(self.loop)

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the access log so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


def pass_time(loop: asyncio.AbstractEventLoop) -> None:
    """Put the clock of a loop an hour forward."""
    ahead = loop.time() - time.monotonic() + 3600
    loop.time = lambda: time.monotonic() + ahead  # type: ignore[method-assign]
    loop.call_soon_threadsafe(lambda: None)  # so that it looks at its clock


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = bytearray()
    with connection, suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            found += data
    return bytes(found)


def fault(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of an error, which has to be in OpenAI's form."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"]


def raw_fault(answer: bytes) -> tuple[int, str]:
    """As `fault`, of an answer as it came over a socket."""
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = [line.decode().split(": ") for line in head.split(b"\r\n")[1:]]
    status = int(head.split()[1])
    return fault(httpx2.Response(status, headers=[(k, v) for k, v in fields], content=body))


def wait_until(true: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def free_port() -> str:
    """A port that nobody else gets meanwhile: those that systems choose are higher."""
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise AssertionError("all ports are taken")


def url_in(process: subprocess.Popen[bytes]) -> str:
    """The address that a server prints when it is ready."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line.decode())
        if found := re.search(r"serving .* at (http://\S+:\d+);", said[-1]):
            return found[1]
    raise AssertionError(said)


def ready(url: str) -> bool:
    """Whether the server at an address answers requests."""
    try:
        return httpx2.get(f"{url}/ready").status_code == 200
    except httpx2.TransportError:
        return False


@contextmanager
def running(settings: ServeSettings, loop: str = "auto") -> Iterator[RunningServer]:
    """A server on a real socket; `loop` is uvicorn's word for an event loop."""
    server = RunningServer(settings, loop)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def in_process(settings: ServeSettings) -> Iterator[TestClient]:
    """A client of the application itself, without sockets."""
    app, address = application(Service(settings)), "http://localhost"
    with TestClient(app, address, raise_server_exceptions=False) as client:
        yield client
