"""A server of small models in this process: uvicorn in a thread, on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from fastapi.testclient import TestClient

from gpt2rt.serving.app import create_app
from gpt2rt.serving.service import Service
from gpt2rt.serving.settings import ServeSettings

LIMIT = 20.0  # seconds that a server may take to start and to end


class RunningServer:
    """A server that listens; `url` is where."""

    def __init__(self, settings: ServeSettings) -> None:
        import uvicorn

        self.service = Service(settings)
        config = uvicorn.Config(create_app(self.service), port=settings.port, log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        end = time.monotonic() + LIMIT
        while not self.server.started:
            assert self.thread.is_alive() and time.monotonic() < end
            time.sleep(0.002)

    @property
    def port(self) -> int:
        return int(self.server.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **settings: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=LIMIT, **settings)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


@contextmanager
def running(settings: ServeSettings) -> Iterator[RunningServer]:
    server = RunningServer(settings)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def in_process(settings: ServeSettings) -> Iterator[TestClient]:
    """A client of the application itself, without sockets."""
    with TestClient(create_app(Service(settings)), raise_server_exceptions=False) as client:
        yield client
