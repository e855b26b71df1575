"""The batch that all callers of a model share, whatever threads they are in.

It has no thread of its own: whoever waits for a piece makes the steps, for everybody
(`gpt2rt.generation.lead`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Protocol
from weakref import ref

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.engine import Engine
from gpt2rt.engine.slots import Slots
from gpt2rt.errors import Gpt2rtError, InvalidSetting, QueueFull, StepFailed
from gpt2rt.generation.batch_statistics import BatchStatistics, BatchTotals
from gpt2rt.generation.client import CLOSED, Client
from gpt2rt.generation.completion import Piece
from gpt2rt.generation.lead import Lead
from gpt2rt.generation.queue import Queue
from gpt2rt.generation.scheduler import Scheduler
from gpt2rt.generation.speculation import MakeDraft
from gpt2rt.generation.task import Task

AHEAD = 16  # steps that a text may be ahead of its reader; then it rests
# The most tokens that other work should read between two steps, and beside texts in progress: about
# what they wait for a step with a piece of a prompt.
SLICE, SLICE_BESIDE = 256, 64


class BatchModel(Protocol):
    """What a batch needs of its model."""

    hparams: HParams
    make_draft: MakeDraft | None

    def engine(self, count: int) -> Engine:
        """An engine for `count` sequences."""

    def new_slots(self, count: int) -> Slots:
        """Slots for `count` sequences."""


class Batch:
    """The texts in progress of all clients of a model, and those that wait for a slot.

    Without a `limit` there are slots for all clients, and memory is taken only while there are any.
    Only the thread with the lead uses what is marked so; `lock` guards the rest.
    """

    def __init__(self, model: BatchModel) -> None:
        """A batch that does not keep `model` alive."""
        self._model = ref(model)
        self._n_ctx = model.hparams.n_ctx
        self._lead = Lead()
        self.lock = self._lead.lock
        self._clients: set[Client] = set()
        self._queue = Queue()
        self._calls: deque[tuple[Client, Callable[[], Any], Future[Any]]] = deque()
        self._leaving: deque[Client] = deque()
        self._closed: Gpt2rtError | None = None
        self._slots: int | None = None
        self._most_queued: int | None = None
        self._budget: int | None = None
        # Of the thread with the lead:
        self._engine: Engine | None = None
        self._scheduler: Scheduler | None = None
        self._running: dict[Task, Client] = {}
        self._wakes: set[Callable[[], None]] = set()
        self._totals = BatchTotals()

    def client(
        self, most: int, *, owner: Hashable = None, wake: Callable[[], None] | None = None
    ) -> Client:
        """A place for a call with up to `most` tasks at a time (see `Client`).

        Raises the error of a closed batch.
        """
        client = Client(self, most, owner, wake)
        with self.lock:
            self._check_open()
            self._clients.add(client)
        return client

    def limit(self, slots: int | None, queue: int | None, budget: int | None = None) -> None:
        """Keep that many slots, and that many tasks in the queue (None: as many as are asked for).

        `budget` is the most tokens of prompts in a step beside texts in progress (None: the
        engine's own). Raises `InvalidSetting` or `OutOfMemory` if the memory is too small.
        """
        with self._lead.held():
            self._check_open()
            if slots is not None:
                self._room(slots)
            self._slots, self._most_queued, self._budget = slots, queue, budget
            if self._engine is not None and budget is not None:
                self._engine.budget = budget

    def close(self, error: Gpt2rtError) -> None:
        """End everything: all in the batch, and all who come, get `error`."""
        with self._lead.held():
            self._closed, self._slots = error, None
            self._drop_all(error)
            with self.lock:
                calls, self._calls = self._calls, deque()
                for client, _, done in calls:
                    done.set_exception(error)
                    self._lead.tell(client.changed)
            self._wake()

    @property
    def slice(self) -> int:
        """The most tokens that a client's `call` should read now."""
        return SLICE_BESIDE if self._running else SLICE

    @property
    def statistics(self) -> BatchStatistics:
        """Counts now, and since the model was loaded."""
        engine = self._engine
        with self.lock:
            now = len(self._running), len(self._queue), engine.count if engine else 0
            return BatchStatistics(*now, **asdict(self._totals))

    # ---- what clients do

    def join(self, client: Client, tasks: Seq[Task], wait: bool) -> None:
        with self.lock:
            self._check_open(client)
            self._check_slots(tasks)
            if not wait and self._most_queued is not None:
                free = (self._slots or 0) - len(self._running)
                if len(self._queue) + len(tasks) > self._most_queued + max(0, free):
                    raise QueueFull(
                        f"{len(self._queue):,} texts wait already, and {self._most_queued:,} may; "
                        "try again later"
                    )
            client.tasks |= dict.fromkeys(tasks)
            self._queue.push(client, tasks)

    def leave(self, client: Client) -> None:
        """Have a closed client taken out: now, or by who has the lead."""
        self._leaving.append(client)
        self._tidy()

    def between_steps(self, client: Client, work: Callable[[], Any], done: Future[Any]) -> None:
        with self.lock:
            self._check_open(client)
            self._calls.append((client, work, done))

    def step_until(self, client: Client, done: Callable[[], bool]) -> None:
        """Make steps, or wait for who makes them, until `done()`.

        Raises what a step raises that this thread makes, and `StepFailed` if the client is closed.
        """
        try:
            self._lead.step_until(lambda: done() or client.closed, client.changed, self.turn)
        finally:
            self._tidy()
        if not done():
            raise StepFailed(CLOSED)

    def drive(self) -> None:
        """Make steps until there is nothing to do, for clients whose threads do not wait."""
        try:
            self._lead.step_while_busy(self.turn)
        finally:
            self._tidy()

    # ---- a turn

    def turn(self) -> bool:
        """Make a step, and then a call, for the thread with the lead; whether there was any.

        Raises what the step raises; then all texts in progress get that error, or `StepFailed`.
        """
        try:
            self._sweep()
            self._admit()
            stepped = self._step()
        except BaseException as error:
            self._totals.failures += 1
            self._drop_all(error if isinstance(error, Gpt2rtError) else _step_failed(error))
            raise
        finally:
            self._wake()
        return self._call() or stepped

    def _tidy(self) -> None:
        """Take out who left, unless another thread has the lead: it does so after its last turn."""
        while self._leaving and self._lead.take_if_free():
            try:
                self._sweep()
            finally:
                self._lead.give_back()

    def _sweep(self) -> None:
        """Take out what closed clients still have in the batch."""
        while self._leaving:
            client = self._leaving.popleft()
            with self.lock:
                self._clients.discard(client)
                self._queue.remove(client)
                self._calls = deque(call for call in self._calls if call[0] is not client)
                running = [task for task in client.tasks if task in self._running]
                client.tasks.clear()
                client.steps.clear()
                self._lead.tell(client.changed)
            for task in running:
                del self._running[task]
                assert self._scheduler is not None
                self._scheduler.drop(task)
        with self.lock:
            unused = self._slots is None and not any(client.most for client in self._clients)
        if unused:
            self._engine = self._scheduler = None

    def _admit(self) -> None:
        """Give free slots to tasks of the queue."""
        while self._queue:
            with self.lock:
                needed = self._queue.needed
                wanted = self._slots or sum(of.most for of in self._clients if of.tasks)
            try:
                scheduler = self._room(wanted, needed)
            except (Gpt2rtError, MemoryError) as error:
                failure = error if isinstance(error, Gpt2rtError) else _step_failed(error)
                with self.lock:
                    for client in self._queue.clients():
                        waiting = [task for task in client.tasks if task not in self._running]
                        self._fail(client, waiting, failure)
                    self._queue.clear()
                return
            if scheduler.free < needed:  # what comes later waits, too, else it would for ever
                return
            with self.lock:
                client, tasks = self._queue.pop(scheduler.free)
            self._running |= dict.fromkeys(tasks, client)
            scheduler.admit(tasks)

    def _room(self, wanted: int, needed: int = 1) -> Scheduler:
        """The scheduler, with `wanted` slots if `needed` are not free.

        Raises what making slots does.
        """
        model = self._model()
        assert model is not None, "a model outlives the calls of its methods"
        if self._scheduler is None or self._engine is None:
            self._engine = model.engine(wanted)
            self._engine.budget = self._budget or self._engine.budget
            self._scheduler = Scheduler(self._engine, self._n_ctx, model.make_draft)
        elif self._engine.count < wanted and self._scheduler.free < needed:
            self._engine.resize(model.new_slots(wanted))
        return self._scheduler

    def _step(self) -> bool:
        """A step for all texts that do not rest, and their pieces to their clients."""
        ahead = AHEAD if self._slots is None else self._n_ctx
        resting = {task for task, at in self._running.items() if len(at.steps) >= ahead}
        if self._scheduler is None or len(resting) == len(self._running):
            return False
        assert self._engine is not None
        began, read = time.thread_time(), self._engine.prompt_tokens
        found = self._scheduler.turn(resting)
        self._totals.model_seconds += time.thread_time() - began
        self._totals.steps += 1
        self._totals.prompt_tokens += self._engine.prompt_tokens - read
        pieces: dict[Client, list[Piece]] = {}
        with self.lock:
            for task, piece in found:
                client = self._running[task]
                self._totals.tokens += piece.token is not None
                if piece.last:
                    del self._running[task], client.tasks[task]
                if piece.last or not client.ends_only:
                    pieces.setdefault(client, []).append(piece)
            for client, theirs in pieces.items():
                self._hand(client, theirs)
        return True

    def _hand(self, client: Client, pieces: list[Piece]) -> None:
        """Give pieces of a step to a client, and wake its thread if it waits for them."""
        client.steps.append(pieces)
        if client.wake is not None:
            self._wakes.add(client.wake)
        self._lead.tell(client.changed)

    def _wake(self) -> None:
        """Call what clients who do not wait want called, each once."""
        while self._wakes:
            self._wakes.pop()()

    def _call(self) -> bool:
        """Run the work that waits longest, whose errors are its client's."""
        with self.lock:
            if not self._calls:
                return False
            client, work, done = self._calls.popleft()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        except BaseException as error:
            done.set_exception(_step_failed(error))
            raise
        finally:
            with self.lock:
                self._lead.tell(client.changed)
        return True

    def _drop_all(self, error: Gpt2rtError) -> None:
        """Empty the batch; every text in it gets `error`."""
        self._engine = self._scheduler = None
        self._running.clear()
        with self.lock:
            self._queue.clear()
            for client in self._clients:
                self._fail(client, list(client.tasks), error)

    def _fail(self, client: Client, tasks: list[Task], error: Gpt2rtError) -> None:
        for task in tasks:
            del client.tasks[task]
        if tasks:
            self._hand(client, [Piece(task.request.sample, "", failure=error) for task in tasks])

    def _check_slots(self, tasks: Seq[Task]) -> None:
        """Raises `InvalidSetting` for a task that would wait for ever."""
        most = max((task.slots for task in tasks), default=0)
        if self._slots is not None and most > self._slots:
            raise InvalidSetting(f"{most} beams need as many slots, and there are {self._slots}")

    def _check_open(self, client: Client | None = None) -> None:
        """Raises the error of a closed batch, or `StepFailed` for a closed client."""
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)
        if client is not None and client.closed:
            raise StepFailed(CLOSED)


def _step_failed(error: BaseException) -> StepFailed:
    return StepFailed(
        f"a step that this text shared with others failed ({error!r:.200}); generate it again"
    )
