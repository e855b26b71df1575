"""The models of a server by name: loaded at the start or when asked for, within a memory limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.engine.memory import slot_bytes
from gpt2rt.engine.providers import Threads
from gpt2rt.errors import InvalidSetting, UnknownModel
from gpt2rt.model import GPT2
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.settings import ServeSettings


@dataclass(eq=False)
class ServedModel:
    """A model that clients may ask for; `model` is None while it is not loaded."""

    name: str
    bundle: Bundle
    bytes: int  # of weights, keys and values
    model: AsyncGPT2 | None = None
    users: int = 0
    used: int = 0  # when it was last asked for, in requests


class Models:
    """Gives the models of a server to requests."""

    def __init__(self, settings: ServeSettings) -> None:
        """Open the bundles. Raises `UnknownModel`, `BadBundle`, `InvalidSetting`."""
        self._settings = settings
        self._served: dict[str, ServedModel] = {}
        self._aliases: dict[str, str] = {}  # as the command line named them
        self._loading = asyncio.Lock()
        self._count = 0
        for name in settings.models:
            self._add(library.find(name), name)
        if not settings.models:
            bundle = library.default()
            self._add(bundle, bundle.name)

    def _add(self, bundle: Bundle, alias: str) -> None:
        if (other := self._served.get(bundle.name)) is not None:
            raise InvalidSetting(
                f"two models are called {bundle.name}: {other.bundle.directory} and "
                f"{bundle.directory}; serve one of them"
            )
        manifest = bundle.manifest
        each = slot_bytes(manifest.hparams, manifest.kv)
        size = manifest.files[WEIGHTS].bytes + self._settings.slots * each
        self._served[bundle.name] = ServedModel(bundle.name, bundle, size)
        self._aliases[alias] = bundle.name
        limit = self._settings.memory
        if limit is not None and size > limit:
            raise InvalidSetting(
                f"{bundle.name} takes {size / 1e6:,.0f} MB with {self._settings.slots} slots, more "
                f"than the limit of {limit / 1e6:,.0f} MB; fewer slots take less"
            )

    def all(self) -> list[ServedModel]:
        """Every model that may be asked for, loaded or not."""
        return list(self._served.values())

    def find(self, name: str | None) -> ServedModel:
        """The model `name` (None: the first). Raises `UnknownModel`, which lists them."""
        if name is None:
            return next(iter(self._served.values()))
        known = self._served.get(self._aliases.get(name, name))
        if known is None:
            raise UnknownModel(f"unknown model {name!r:.100}: there are {', '.join(self._served)}")
        return known

    def loaded(self) -> Iterator[tuple[str, AsyncGPT2]]:
        """The loaded models with their names."""
        for served in self.all():
            if served.model is not None:
                yield served.name, served.model

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[AsyncGPT2]:
        """The model `name`, which stays loaded as long as the context is open."""
        served = self.find(name)
        self._count += 1
        served.used = self._count
        served.users += 1
        try:
            yield served.model or await self._load(served)
        finally:
            served.users -= 1

    async def load_all(self) -> None:
        """Load every model. Raises what `GPT2` raises, `Fault` if they do not fit together."""
        for served in self.all():
            async with self.use(served.name):
                pass

    async def _load(self, served: ServedModel) -> AsyncGPT2:
        async with self._loading:  # one at a time, so that they do not both take the last room
            if served.model is None:
                await self._make_room(served)
                threads, provider = Threads(self._settings.threads), self._settings.provider
                model = await asyncio.to_thread(GPT2, served.bundle, threads, provider)
                served.model = AsyncGPT2(
                    model, slots=self._settings.slots, queue=self._settings.queue
                )
            return served.model

    async def _make_room(self, served: ServedModel) -> None:
        """Close models that nobody uses, the longest unused first, until `served` fits."""
        limit = self._settings.memory
        if limit is None:
            return
        there = [other for other in self.all() if other.model is not None]
        idle = sorted((o for o in there if not o.users), key=lambda other: other.used)
        taken = served.bytes + sum(other.bytes for other in there)
        if taken - sum(other.bytes for other in idle) > limit:
            raise Fault(
                503, f"no room for {served.name} beside the models in use", code="no_memory",
                retry_after=5,
            )  # fmt: skip
        for other in idle:
            if taken <= limit:
                break
            taken -= other.bytes
            await self._unload(other)

    async def _unload(self, served: ServedModel) -> None:
        model, served.model = served.model, None
        if model is not None:
            await model.aclose()

    async def close(self) -> None:
        """Close every loaded model."""
        for served in self.all():
            await self._unload(served)
