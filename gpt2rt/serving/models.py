"""The models of a server by name: loaded at the start or when asked for, within a memory limit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import MANIFEST, WEIGHTS
from gpt2rt.engine.memory import slot_bytes
from gpt2rt.engine.providers import Threads
from gpt2rt.errors import BadBundle, InvalidSetting, OutOfMemory, UnknownModel
from gpt2rt.model import GPT2
from gpt2rt.serving.settings import ServeSettings


@dataclass(eq=False)
class ServedModel:
    """A model that clients may ask for; `model` is None while it is not loaded.

    `bytes` are those of its weights, keys, values and cache once it is. `created` is when it was
    exported, in seconds since 1970.
    """

    name: str
    bundle: Bundle
    bytes: int
    created: int
    model: AsyncGPT2 | None = None
    loading: asyncio.Task[AsyncGPT2] | None = None
    users: int = 0
    used: int = 0  # the number of the last request that asked for it


class Models:
    """Gives the models of a server to requests."""

    def __init__(self, settings: ServeSettings) -> None:
        """Open the bundles. Raises `UnknownModel`, `BadBundle`, `InvalidSetting`."""
        self._settings = settings
        self._served: dict[str, ServedModel] = {}
        self._aliases: dict[str, str] = {}  # as the command line named them
        self._one = asyncio.Lock()
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
        size += self._settings.prefix_bytes
        created = int((bundle.directory / MANIFEST).stat().st_mtime)
        self._served[bundle.name] = ServedModel(bundle.name, bundle, size, created)
        self._aliases[alias] = bundle.name
        limit = self._settings.memory
        if limit is not None and size > limit:
            raise InvalidSetting(
                f"{bundle.name} takes {size / 1e6:,.0f} MB with {self._settings.slots} slots, more "
                f"than the limit of {limit / 1e6:,.0f} MB; fewer slots or caches take less"
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
        """The model `name` (None: the first), which stays loaded as long as the context is open.

        Raises `UnknownModel`, `OutOfMemory` if other models leave no room, `BadBundle`.
        """
        served = self.find(name)
        self._count += 1
        served.used = self._count
        served.users += 1
        try:
            try:
                model = served.model or await self._loaded(served)
            except InvalidSetting as error:  # of the server's own settings
                raise BadBundle(str(error)) from error
            yield model
        finally:
            served.users -= 1

    async def load_all(self) -> None:
        """Load every model. Raises what `GPT2` raises, `InvalidSetting` if they do not fit."""
        for served in self.all():
            await self._loaded(served)
        if missing := [served.name for served in self.all() if served.model is None]:
            raise InvalidSetting(
                f"no room for {', '.join(missing)} beside the other models; raise the limit of the "
                "memory, or load on demand"
            )

    async def _loaded(self, served: ServedModel) -> AsyncGPT2:
        """The model, loaded once for all who wait, however many of them leave."""
        if served.loading is None:
            served.loading = asyncio.create_task(self._load(served))
            served.loading.add_done_callback(partial(_end_loading, served))
        return await asyncio.shield(served.loading)

    async def _load(self, served: ServedModel) -> AsyncGPT2:
        async with self._one:  # so that two do not take the same room
            if served.model is None:
                await self._make_room(served)
                served.model = await asyncio.to_thread(self._opened, served.bundle)
            return served.model

    def _opened(self, bundle: Bundle) -> AsyncGPT2:
        s = self._settings
        model = GPT2(bundle, Threads(s.threads), s.provider, prefix_bytes=s.prefix_bytes)
        return AsyncGPT2(model, slots=s.slots, queue=s.queue)

    async def _make_room(self, served: ServedModel) -> None:
        """Close models that nobody uses, the longest unused first, until `served` fits."""
        limit = math.inf if self._settings.memory is None else self._settings.memory
        there = [other for other in self.all() if other.model is not None]
        idle = sorted((o for o in there if not o.users), key=lambda other: other.used)
        taken = served.bytes + sum(other.bytes for other in there)
        if taken - sum(other.bytes for other in idle) > limit:
            raise OutOfMemory(f"no room for {served.name} beside the models in use")
        for other in idle:
            if taken > limit:
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


def _end_loading(served: ServedModel, task: asyncio.Task[AsyncGPT2]) -> None:
    served.loading = None
    if not task.cancelled():
        task.exception()  # whoever waits is told; if nobody does it is no news
