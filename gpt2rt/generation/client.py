"""A call's place in the batch that all callers of a model share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from gpt2rt.errors import StepFailed
from gpt2rt.generation.completion import Piece
from gpt2rt.generation.task import Task

T = TypeVar("T")

CLOSED = "the call was closed, so nothing more is made for it"
# Set when whoever waits for this call has left: for calls in threads that they cannot interrupt.
caller_left: ContextVar[threading.Event | None] = ContextVar("caller_left", default=None)


class Home(Protocol):
    """The batch, as its clients use it (`gpt2rt.generation.batch`)."""

    lock: threading.Lock

    def join(self, client: Client, tasks: Seq[Task], wait: bool) -> None:
        """Put tasks of a client into the queue."""

    def step_until(self, client: Client, done: Callable[[], bool]) -> None:
        """Make steps, or wait for who makes them, until `done()`."""

    def between_steps(self, client: Client, work: Callable[[], Any], done: Future[Any]) -> None:
        """Have `work` run between two steps, for `done`."""

    def leave(self, client: Client) -> None:
        """Have all that a client still has in the batch taken out."""


class Client:
    """A call's place in a batch: the tasks it submits, and the pieces it has not taken yet.

    For one thread at a time, but any thread may `close` it. `with` closes it at the end.

    Attributes:
        most: the most tasks it has in flight.
        owner: whose it is, for a fair queue; None: it is an owner of its own.
        wake: called by the thread that steps, once a step, if there are pieces.
        in_flight: the tasks submitted whose last piece was not taken.
        ends_only: whether it gets only the last piece of each text.
        tasks: those that wait or run.
        steps: the pieces that were not taken, by steps.
        changed: notified when what its thread waits for is there.
        closed: whether it was closed.
    """

    def __init__(
        self,
        home: Home,
        most: int,
        owner: Hashable = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._home = home
        self.most, self.owner, self.wake = most, owner, wake
        self.in_flight = 0
        self.ends_only = self.closed = False
        self.tasks: dict[Task, None] = {}  # in their order
        self.steps: deque[list[Piece]] = deque()
        self.changed = threading.Condition(home.lock)
        self._caller_left = caller_left.get()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the batch; slots are free at the next step. It never waits."""
        self.closed = True
        self._home.leave(self)

    def submit(self, tasks: Seq[Task], *, wait: bool = True) -> None:
        """Submit tasks, which join the batch at the next step if there are slots.

        Raises `QueueFull` for `wait` false and a full queue, and the error of a closed batch.
        """
        self._home.join(self, tasks, wait)
        self.in_flight += len(tasks)

    def take(self) -> list[Piece]:
        """The pieces since the last call: makes steps, or waits for who does, until there are any.

        Raises what a step that this thread makes raises.
        """
        assert self.in_flight, "nothing was submitted"
        self._home.step_until(self, lambda: bool(self.steps))
        return self.ready()

    def until_done(self) -> list[Piece]:
        """As `take`, but until a text ends, and only with the last pieces of texts."""
        self.ends_only = True
        return self.take()

    def ready(self) -> list[Piece]:
        """The pieces since the last call, maybe none. It does not wait for a step."""
        pieces: list[Piece] = []
        with suppress(IndexError):  # no more; another thread may add some, or take all out
            while True:
                pieces += self.steps.popleft()
        for piece in pieces:
            if piece.last:
                self.in_flight -= 1
        return pieces

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, when it is run between two steps.

        Raises `StepFailed` if the client is closed, or its caller has left.
        """
        if self._caller_left is not None and self._caller_left.is_set():
            raise StepFailed(CLOSED)
        done: Future[T] = Future()
        self._home.between_steps(self, work, done)
        self._home.step_until(self, done.done)
        return done.result()
