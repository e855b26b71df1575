"""Steps that fail, threads that are interrupted, calls between steps: whose end each is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from batches import Engines
from callers import alone, assert_empty, completed, drained, request, tasks
from gpt2rt import GPT2
from gpt2rt.engine.slots import Logits, Part, Slots
from gpt2rt.errors import QueueFull, StepFailed
from gpt2rt.generation.client import Client
from gpt2rt.sampling.selection import Draw
from shared_batch import WATCHDOG, hanging, left_empty


@pytest.fixture
def model(tiny_models: dict[str, GPT2]) -> Iterator[GPT2]:
    with left_empty(tiny_models["fp32"]) as found:
        yield found


class Breaking:
    """Slots that raise at a step, once."""

    def __init__(self, slots: Slots, at: int, error: BaseException) -> None:
        self._slots, self.count, self.budget = slots, slots.count, slots.budget
        self.prefixes, self.ahead = slots.prefixes, slots.ahead
        self._left, self._error = at, error
        self.copy, self.read, self.write = slots.copy, slots.read, slots.write

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        self._left -= 1
        if self._left == 0:
            raise self._error
        return np.asarray(self._slots.step(parts, draws))


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError("odd"), StepFailed), (KeyboardInterrupt(), StepFailed), (QueueFull("x"), None)],
    ids=repr,
)
def test_a_step_that_fails_is_everybodys_and_the_next_one_is_nobodys(
    model: GPT2, at: int, error: BaseException, told: type[Exception] | None
) -> None:
    errors = [error]

    def new_slots(count: int) -> Slots:
        slots = model.new_slots(count)
        return Breaking(slots, at, errors.pop()) if errors else slots

    engines = Engines(new_slots)
    batch = engines.batch
    with batch.client(1) as leader, batch.client(3) as other:
        leader.submit(tasks(model, [request(0)]))
        other.submit(tasks(model, [request(n) for n in (1, 2, 3)]))
        with pytest.raises(type(error)) as raised:
            drained(leader)
        assert raised.value is error
        pieces = other.ready()
        assert [p.sample for p in pieces if p.last] == [1, 2, 3]
        for piece in pieces[-3:]:
            assert isinstance(piece.failure, told or type(error))
        assert other.in_flight == 0
        assert batch.statistics.failures == 1
        other.submit(tasks(model, [request(5)]))
        assert completed(drained(other)) == {5: alone(model, request(5))}
    assert_empty(batch)


def test_a_thread_that_is_interrupted_while_it_leads_lets_the_others_go_on(model: GPT2) -> None:
    """They are told, and generate again."""
    errors: list[BaseException] = [KeyboardInterrupt()]

    def new_slots(count: int) -> Slots:
        return Breaking(model.new_slots(count), 5, errors.pop() if errors else StepFailed(""))

    engines = Engines(new_slots)
    batch = engines.batch
    ended: dict[int, object] = {}
    together = threading.Barrier(4)

    def generate(number: int) -> None:
        with batch.client(1) as client:
            client.submit(tasks(model, [request(number, 4)]))
            together.wait()
            try:
                ended[number] = completed(drained(client)) or "told"
            except KeyboardInterrupt:
                ended[number] = "interrupted"

    threads = [threading.Thread(target=generate, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    assert not hanging(threads)
    assert len(ended) == 4
    assert_empty(batch)


class Interrupting(Breaking):
    """Slots in one of whose steps somebody presses Ctrl-C."""

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        try:
            return super().step(parts, draws)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)  # where Python would raise it
        return np.asarray(self._slots.step(parts, draws))


@pytest.mark.parametrize("at", [1, 2, 4])
def test_ctrl_c_ends_the_texts_of_its_thread_alone(model: GPT2, at: int) -> None:
    engines = Engines(lambda n: Interrupting(model.new_slots(n), at, KeyboardInterrupt()))
    batch = engines.batch
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with batch.client(3) as other:
            other.submit(tasks(model, [request(n) for n in (1, 2, 3)]))
            with batch.client(1) as leader:
                leader.submit(tasks(model, [request(0, 100)]))
                with pytest.raises(KeyboardInterrupt):
                    drained(leader)
            wanted = {n: alone(model, request(n)) for n in (1, 2, 3)}
            assert completed(drained(other)) == wanted
            assert batch.statistics.failures == 0
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert_empty(batch)


# ---- calls between steps


def test_a_call_runs_between_steps_and_its_error_is_its_own(model: GPT2) -> None:
    with model.batch.client(1) as text, model.batch.client(0) as caller:
        text.submit(tasks(model, [request(0, 10)]))
        assert [caller.call(partial(pow, n, 2)) for n in range(4)] == [0, 1, 4, 9]
        with pytest.raises(ZeroDivisionError):
            caller.call(lambda: 1 // 0)
        assert len(text.ready()) == 5  # a step for each
        assert len(drained(text)) == 5


def test_a_closed_client_calls_nothing(model: GPT2) -> None:
    client = model.batch.client(1)
    client.close()
    client.close()
    with pytest.raises(StepFailed, match="was closed"):
        client.call(lambda: None)


def test_a_call_that_waits_ends_when_its_client_is_closed(model: GPT2) -> None:
    begun, go_on, told = threading.Event(), threading.Event(), []

    def long() -> None:
        begun.set()
        go_on.wait(WATCHDOG)

    def wait(client: Client) -> None:
        try:
            client.call(lambda: None)
        except StepFailed as error:
            told.append(error)

    first, second = model.batch.client(0), model.batch.client(0)
    threads = [
        threading.Thread(target=first.call, args=(long,), daemon=True),
        threading.Thread(target=wait, args=(second,), daemon=True),
    ]
    threads[0].start()
    begun.wait(WATCHDOG)
    threads[1].start()
    second.close()
    go_on.set()
    assert not hanging(threads)
    assert len(told) == 1
    first.close()
