"""What the endpoints of a server share: its models, its counts, and whether it is ending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TextIO

from fastapi import Request

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.serving.access import AccessLog
from gpt2rt.serving.metrics import Metrics
from gpt2rt.serving.models import Models
from gpt2rt.serving.settings import ServeSettings

State = Literal["loading", "ready", "failing", "ending"]
FAILURES = 3  # in a row, after which a model does not work
TYPICAL = 64  # tokens of a text, to tell how long a queue lasts


class Service:
    """The state of a running server.

    `draining` is whether it takes no new requests, `in_flight` the number of those that run,
    `failure` why the models of the start could not be loaded. `counts` gives what `/metrics`
    answers: those of this server, where nobody puts more in its place.
    """

    def __init__(
        self,
        settings: ServeSettings,
        log: TextIO | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the bundles; `log` takes the access log, `ready` is called when they are loaded.

        Raises `UnknownModel`, `BadBundle`, `InvalidSetting`.
        """
        self.settings = settings
        self.models = Models(settings)
        self.metrics = Metrics(self.models.loaded, lambda: self.in_flight)
        self.draining = False
        self.in_flight = 0
        self.failure: Exception | None = None
        self._limits: set[asyncio.Timeout] = set()
        self._log = AccessLog(log)
        self._ready = ready
        self._start: asyncio.Task[None] | None = None
        self.counts: Callable[[], Awaitable[bytes]] = self._counts

    def model(self, name: str | None) -> AbstractAsyncContextManager[AsyncGPT2]:
        """The model `name` (None: the first), loaded, and kept as long as the context is open.

        Raises `UnknownModel`, `OutOfMemory` if other models leave no room, `BadBundle`.
        """
        return self.models.use(name)

    def deadline(self) -> float:
        """When a request that comes now has taken too long, by the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.timeout

    @asynccontextmanager
    async def limit(self, deadline: float) -> AsyncIterator[None]:
        """A context that ends with `TimeoutError` at `deadline`, and at `cut`."""
        async with asyncio.timeout_at(deadline) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def cut(self) -> None:
        """End all requests that run, as if they had taken too long."""
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0.0)

    @property
    def state(self) -> State:
        """What the server is doing; `failing`: each of the last steps of a model failed."""
        if self.draining:
            return "ending"
        if self._start is None or not self._start.done() or self.failure is not None:
            return "loading"
        works = all(model.failed < FAILURES for _, model in self.models.loaded())
        return "ready" if works else "failing"

    def wait(self) -> int:
        """Seconds, 1 to 60, until the texts that wait now may have been continued."""
        waits = [0.0]
        for _, model in self.models.loaded():
            counts = model.model.batch.statistics
            waits.append(counts.queued * TYPICAL * counts.model_seconds / max(1, counts.tokens))
        return min(60, max(1, round(max(waits))))

    def start(self) -> None:
        """Begin to load the models, beside requests."""
        self._start = asyncio.create_task(self._load())

    async def started(self) -> None:
        """Wait until the models of the start are loaded. Raises why they could not be."""
        assert self._start is not None
        await asyncio.shield(self._start)
        if self.failure is not None:
            raise self.failure

    async def _counts(self) -> bytes:
        return self.metrics.text()

    async def _load(self) -> None:
        try:
            if not self.settings.on_demand:
                await self.models.load_all()
            self._ready()
        except Exception as error:
            self.failure = error

    def record(self, line: Mapping[str, Any], scope: Mapping[str, Any]) -> None:
        """Count a request that ended, and log it."""
        route = scope.get("route")
        path = getattr(route, "path", "other")  # as declared: clients do not choose the labels
        self.metrics.requests.labels(path, line["status"]).inc()
        self.metrics.seconds.observe(line["ms"] / 1e3)
        self._log.add(line)

    async def close(self) -> None:
        """Close all models."""
        if self._start is not None:
            await asyncio.wait([self._start])
        await self.models.close()
        self._log.close()


async def service_of(request: Request) -> Service:
    """The service behind a request: `Depends(service_of)` in the endpoints.

    A coroutine, since FastAPI would run a function in another thread.
    """
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
