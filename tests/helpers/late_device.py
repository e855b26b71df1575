"""A device that does what is queued as late as it may: when somebody waits for it.

It is the CPU provider over ordinary memory. Memory of the host that is changed too early, and
results that are read without waiting, give wrong texts here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import onnxruntime as ort

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.memory import Block, HostMemory, Mark, Move
from gpt2rt.engine.cuda.tails import Tails
from gpt2rt.engine.forks import ForkAwareSession
from gpt2rt.engine.providers import Threads, graph_of, open_session
from gpt2rt.errors import Gpt2rtError


class LateMemory(HostMemory):
    """Ordinary memory, with a queue of what is still to be done."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self.queued = self._done = 0

    def later(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        self.queued += 1

    def work(self, until: int) -> None:
        """Do what was queued, up to the work of that number."""
        while self._done < until:
            self._done += 1
            self._queue.popleft()()

    def finish(self) -> None:
        """Do all that was queued; a failure is told to who waits next, as CUDA does."""
        try:
            self.work(self.queued)
        except Gpt2rtError as error:
            self.finish()
            self._done -= 1
            self._queue.appendleft(partial(_fail, error))

    def allocate(self, size: int, *, host: bool = False) -> Block:
        return _LateBlock(self, super().allocate(size, host=host))

    def copy(self, *moves: Move) -> None:
        self.work(self.queued)
        super().copy(*moves)

    def queue(self, *moves: Move) -> None:
        self.later(lambda: HostMemory.copy(self, *moves))

    def mark(self) -> Mark:
        return _LateMark(self)


def _fail(error: Gpt2rtError) -> None:
    raise error


class _LateBlock:
    def __init__(self, memory: LateMemory, block: Block) -> None:
        self._memory, self._block, self.address = memory, block, block.address

    def __del__(self) -> None:
        self._memory.finish()


class _LateMark:
    def __init__(self, memory: LateMemory) -> None:
        self._memory, self._until = memory, 0

    def set(self) -> None:
        self._until = self._memory.queued

    def wait(self) -> None:
        self._memory.work(self._until)


class LateSession:
    """A session whose runs are queued; `fails` may raise in their place."""

    fails: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, session: ForkAwareSession, memory: LateMemory) -> None:
        self._session, self._memory = session, memory

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        if options.get_run_config_entry("disable_synchronize_execution_providers") == "1":
            self._memory.later(lambda: self._run(binding, options))
        else:
            self._memory.work(self._memory.queued)
            self._session.run_with_iobinding(binding, options)

    def _run(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        try:
            type(self).fails()
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            raise Gpt2rtError(f"CUDA could not compute what was asked for: {error}") from error


class _LateTails(Tails):
    def session(self, kind: str) -> LateSession:
        assert isinstance(self._memory, LateMemory)
        return LateSession(super().session(kind), self._memory)


def late_device(bundle: Bundle) -> Device:
    """A bundle's CUDA graph and its tails."""
    memory, hparams = LateMemory(), bundle.manifest.hparams
    session = open_session(graph_of(bundle, "cuda"), Threads(1))
    late = LateSession(session, memory)
    device = Device(late, bundle.directory, hparams, memory)
    device.tails = _LateTails(bundle.directory, hparams, session, memory, device.captures)
    return device
