"""A session on a device, with what its slots and readers share, such as memory and tails."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.cuda.buffers import Buffers
from gpt2rt.engine.cuda.call import Captures
from gpt2rt.engine.cuda.memory import Memory
from gpt2rt.engine.cuda.tails import Tails
from gpt2rt.engine.cuda.whole import WholeReader
from gpt2rt.errors import Gpt2rtError, OutOfMemory

if TYPE_CHECKING:
    import onnxruntime as ort

AnyReader = TypeVar("AnyReader", bound=WholeReader)


class Device:
    """A session on a device with its tails, and its pool of buffers for slots.

    Buffers are reused, since a captured CUDA graph is bound to their addresses and exists as long
    as the session. The number of slots is a power of two, and so is the number of rows of a step,
    so that there are few graphs; the extra rows run in unused slots.
    """

    def __init__(
        self, session: ort.InferenceSession, directory: Path, hparams: HParams, memory: Memory
    ) -> None:
        """`session` is that of the CUDA graph in the bundle's `directory`.

        Where its results cannot be trusted, `careful` says why: then prompts are read one by one,
        nothing is captured, and tokens are chosen on the host. `waits` says why each step waits for
        the one before (None: it does not). `faults` say what is wrong with readers of whole texts
        that were `checked`; then there are none.
        """
        self.session, self.hparams, self.memory = session, hparams, memory
        self.captures = Captures()
        self.careful: str | None = None
        self.waits: str | None = None
        self.checked: set[type[WholeReader]] = set()
        self.faults: dict[type[WholeReader], str] = {}
        self.tails = Tails(directory, hparams, session, memory, self.captures)
        self._idle: list[Buffers] = []
        self.idle_readers: dict[type[WholeReader], list[WholeReader]] = {}

    @property
    def notes(self) -> list[str]:
        """What is slower than it could be on this device, and why."""
        found = []
        if self.careful is not None:
            found.append(f"on CUDA, the slow way: {self.careful}")
        elif self.captures.failure is not None:
            found.append(f"CUDA graphs are not used: {self.captures.failure}")
        elif self.waits is not None:
            found.append(f"on CUDA, each step waits for the one before: {self.waits}")
        for kind, why in self.faults.items():
            found.append(f"on CUDA, {kind.gives} the slow way: {why}")
        return found

    def __del__(self) -> None:
        with suppress(Gpt2rtError):  # the session must not end before what it has queued
            self.memory.copy()

    def distrust(self, why: str) -> None:
        """Work the slow way from now on."""
        self.careful = self.captures.failure = why

    def buffers(self, count: int, user: object) -> Buffers:
        """Buffers of `count` slots, which return to the pool once `user` is no more.

        Raises `OutOfMemory`.
        """
        with self.memory.lock:
            found = self._take(count)
        weakref.finalize(user, self._idle.append, found).atexit = False
        return found

    @contextmanager
    def reader(self, kind: type[AnyReader]) -> Iterator[AnyReader | None]:
        """A context with a reader of whole texts; None where its results cannot be trusted, or the
        bundle has no graphs for it."""
        if self.careful is not None or kind in self.faults or not kind.available(self):
            yield None
            return
        idle = self.idle_readers.get(kind)
        reader = idle.pop() if idle else kind(self)
        try:
            yield reader  # type: ignore[misc]
        finally:
            self.idle_readers.setdefault(kind, []).append(reader)

    def _take(self, count: int) -> Buffers:
        for number, buffers in enumerate(self._idle):
            if buffers.count == count:
                return self._idle.pop(number)
        try:
            return Buffers(self.hparams, self.memory, count)
        except OutOfMemory:
            if not (self._idle or self.idle_readers):
                raise
            self.release()
            return Buffers(self.hparams, self.memory, count)

    def release(self) -> None:
        """Free the memory of slots and readers that nobody uses now."""
        self._idle.clear()
        self.idle_readers.clear()
