"""What the endpoints of a server share: its models, its metrics, and whether it is ending."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from fastapi import Request

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.serving.metrics import Metrics
from gpt2rt.serving.models import Models
from gpt2rt.serving.settings import ServeSettings


class Service:
    """The state of a running server.

    `draining` is whether it takes no new requests, `in_flight` the number of those that run.
    """

    def __init__(self, settings: ServeSettings) -> None:
        """Open the bundles. Raises `UnknownModel`, `BadBundle`, `InvalidSetting`."""
        self.settings = settings
        self.models = Models(settings)
        self.metrics = Metrics(self.models.loaded)
        self.draining = False
        self.in_flight = 0

    def model(self, name: str | None) -> AbstractAsyncContextManager[AsyncGPT2]:
        """The model `name` (None: the first), loaded, and kept as long as the context is open.

        Raises `UnknownModel`, and `Fault` 503 if there is no room for it.
        """
        return self.models.use(name)

    def limit(self) -> asyncio.Timeout:
        """A context that ends with `TimeoutError` when a request has taken too long."""
        return asyncio.timeout(self.settings.timeout)

    async def close(self) -> None:
        """Close all models."""
        await self.models.close()


def service_of(request: Request) -> Service:
    """The service behind a request: `Depends(service_of)` in the endpoints."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
