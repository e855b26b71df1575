"""Which thread makes the next step for all: it has the lead.

Whoever waits for something that steps bring about makes them, until it is there; who comes
meanwhile waits for these steps. So one thread alone never waits for another, and needs none.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

from gpt2rt.generation.interrupts import held_back

RETRY = 0.01  # seconds until a thread that waits where there is nothing to do looks again


class Lead:
    """The lead of one batch. `lock` guards what threads share; nobody holds it during a step."""

    def __init__(self) -> None:
        # Not reentrant: what the garbage collector calls, maybe in a thread that holds it, must not
        # find anything half done.
        self.lock = threading.Lock()
        self._holder: int | None = None
        self._line: deque[object] = deque()  # of the threads that wait in `held`
        self._free = threading.Condition(self.lock)
        self._waiting: dict[threading.Condition, Callable[[], bool]] = {}
        _watch_forks()
        _leads.add(self)

    def step_until(
        self, done: Callable[[], bool], changed: threading.Condition, turn: Callable[[], bool]
    ) -> None:
        """Call `turn` with the lead, or wait for who does, until `done()`.

        `changed`, on `lock`, wakes this thread (`tell`). `turn` makes a step, and returns whether
        there was anything to do; what it raises is raised.
        """
        try:
            while self._takes(done, changed):
                busy = self._turns(turn, done)
                self._release()
                if not busy and not done():
                    time.sleep(RETRY)
        finally:  # whatever interrupts this thread, even before its first turn
            if self._holder == threading.get_ident():
                self._release()

    def step_while_busy(self, turn: Callable[[], bool]) -> None:
        """Call `turn` with the lead as long as there is anything to do."""
        busy = True
        while busy:
            with self.held():
                busy = self._turns(turn, lambda: False)

    def _turns(self, turn: Callable[[], bool], done: Callable[[], bool]) -> bool:
        """Call `turn` until `done()`, or a thread waits in `held`; False: nothing is left to do.

        Ctrl-C is raised after a turn, so it ends no text but those of this thread.
        """
        with held_back() as interrupted:
            busy = turn()
            while busy and not (done() or self._line or interrupted()):
                busy = turn()
        return busy

    def tell(self, changed: threading.Condition) -> None:
        """Wake the thread of `changed` if what it waits for is there; with the lock."""
        done = self._waiting.get(changed)
        if done is not None and done():
            changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context with the lead, which comes before the next step of whoever has it now."""
        me = threading.get_ident()
        with self.lock:
            mine = self._holder != me
            if mine:
                place = object()
                self._line.append(place)  # who comes back at once is behind those who waited
                try:
                    self._free.wait_for(lambda: self._holder is None and self._line[0] is place)
                    self._holder = me
                finally:
                    self._line.remove(place)
                    self._pass_on()
        try:
            yield
        finally:
            if mine:
                self._release()

    def take_if_free(self) -> bool:
        """Take the lead, to `give_back`, if nobody has it; it never waits, even for the lock."""
        if not self.lock.acquire(blocking=False):
            return False
        free = self._holder is None
        if free:
            self._holder = threading.get_ident()
        self.lock.release()
        return free

    def give_back(self) -> None:
        """End what `take_if_free` began."""
        self._release()

    def _takes(self, done: Callable[[], bool], changed: threading.Condition) -> bool:
        """Wait until `done()`, or until nobody has the lead: then it is this thread's."""
        with self.lock:
            self._waiting[changed] = done
            try:
                while not done() and (self._holder is not None or self._line):
                    changed.wait()
                if done():
                    return False
                self._holder = threading.get_ident()
                return True
            finally:
                del self._waiting[changed]
                self._pass_on()

    def _release(self) -> None:
        with self.lock:
            self._holder = None
            self._pass_on()

    def _pass_on(self) -> None:
        """If nobody has the lead, wake a thread that waits for it."""
        if self._holder is not None:
            return
        if self._line:
            self._free.notify_all()
        elif self._waiting:
            next(iter(self._waiting)).notify_all()

    def forget_threads(self) -> None:
        """In a forked child: none waits that is not there."""
        self._waiting.clear()
        self._line.clear()


# A fork waits for the steps in progress, so that the child can go on with every text.

_leads: WeakSet[Lead] = WeakSet()
_held = ExitStack()


def _before_fork() -> None:
    for lead in list(_leads):
        _held.enter_context(lead.held())
        _held.enter_context(lead.lock)


def _after_fork_in_child() -> None:
    for lead in list(_leads):
        lead.forget_threads()
    _held.close()


@functools.cache
def _watch_forks() -> None:
    """Register the hooks, after those of sessions, which wait for the calls that steps make.

    Hooks before a fork run in the reverse order of their registration.
    """
    import gpt2rt.engine.forks  # noqa: F401

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=lambda: _held.close(),
            after_in_child=_after_fork_in_child,
        )
