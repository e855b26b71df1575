"""The batch that callers share: who joins, leaves, fails and waits changes no other's text."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from any_settings import finished
from batches import Engines
from gpt2rt import GPT2, Beams, Piece, Request, SamplingParams, Stopping
from gpt2rt.engine.slots import Logits, Part, Slots
from gpt2rt.errors import InvalidSetting, QueueFull, StepFailed
from gpt2rt.generation.batch import AHEAD, Batch
from gpt2rt.generation.client import Client
from gpt2rt.generation.task import Task
from gpt2rt.sampling.selection import Draw

LENGTH = 6
PROMPTS = ["the cat", "the cat sat on the mat", "a", "many more words than there are in the others"]
SEARCH = 16  # the number of a request that is searched for
WATCHDOG = 60  # seconds until a thread counts as hanging


@pytest.fixture
def model(tiny_models: dict[str, GPT2]) -> Iterator[GPT2]:
    """A model whose batch is empty before and after the test."""
    found = tiny_models["fp32"]
    assert_empty(found.batch)
    yield found
    assert_empty(found.batch)


def assert_empty(batch: Batch) -> None:
    now = batch.statistics
    assert (now.running, now.queued, now.slots) == (0, 0, 0)


def request(sample: int, length: int = LENGTH) -> Request:
    """One of a few requests, which differ in all that matters."""
    params = SamplingParams(seed=sample, top_k=(0, 40)[sample % 2], temperature=sample % 3 / 2)
    overflow = ("stop", "slide")[sample % 5 == 4]
    stopping = Stopping(length, end_of_text=False, overflow=overflow)  # type: ignore[arg-type]
    return Request(PROMPTS[sample % len(PROMPTS)], params, stopping, sample=sample)


def tasks(model: GPT2, requests: Sequence[Request]) -> list[Task]:
    return [model.tasks.begin(prompted) for prompted in model.tasks.read(requests)]


def alone(model: GPT2, wanted: Request) -> tuple[int, ...]:
    (completion,) = finished(model, [wanted], 1)
    return completion.tokens


def best(model: GPT2, width: int) -> list[tuple[int, ...]]:
    """What a search finds alone."""
    wanted = replace(request(SEARCH), stopping=Stopping(LENGTH))
    found = model.beam_search(wanted.prompt, Beams(width), wanted.params, wanted.stopping)
    return [text.tokens for text in found]


def drained(client: Client) -> list[Piece]:
    pieces = []
    while client.in_flight:
        pieces += client.take()
    return pieces


def completed(pieces: Sequence[Piece]) -> dict[int, tuple[int, ...]]:
    return {p.sample: p.completion.tokens for p in pieces if p.completion}


def hanging(threads: Sequence[threading.Thread]) -> list[threading.Thread]:
    until = time.monotonic() + WATCHDOG
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]


# ---- any interleaving


class Callers(RuleBasedStateMachine):
    """Clients that open, submit, step, take and close in any order, in one thread."""

    clients = Bundle("clients")

    model: GPT2
    wanted: list[tuple[int, ...]]
    searched: dict[int, list[tuple[int, ...]]]  # by width

    def __init__(self) -> None:
        super().__init__()
        self.got: dict[Client, dict[int, list[int]]] = {}
        self.searches: dict[Client, list[Task]] = {}

    @rule(target=clients, most=st.integers(1, 4), owner=st.sampled_from([None, "a", "b"]))
    def open(self, most: int, owner: str | None) -> Client:
        client = self.model.batch.client(most, owner=owner)
        self.got[client] = {}
        return client

    @rule(client=clients, samples=st.lists(st.integers(0, 15), min_size=1, max_size=4, unique=True))
    def submit(self, client: Client, samples: list[int]) -> None:
        running = self.got[client]
        fresh = [n for n in samples if n not in running][: client.most - client.in_flight]
        running.update({n: [] for n in fresh})
        client.submit(tasks(self.model, [request(n) for n in fresh]))

    @rule(client=clients)
    def search(self, client: Client) -> None:
        """A beam search, of as many beams as the client has room for, if it has nothing else."""
        if not client.in_flight:
            wanted = replace(request(SEARCH), stopping=Stopping(LENGTH))
            self.searches[client] = tasks(self.model, [wanted])
            self.searches[client][0].beams = Beams(client.most)
            client.submit(self.searches[client])

    @rule(client=clients)
    def take(self, client: Client) -> None:
        if client.in_flight:
            self.check(client, client.take())

    @rule(client=clients, most=st.integers(1, 20))
    def others_step(self, client: Client, most: int) -> None:
        """What a thread of another client does."""
        for _ in range(most):
            client.call(lambda: None)

    @rule(client=clients)
    def look(self, client: Client) -> None:
        self.check(client, client.ready())

    @rule(client=consumes(clients))
    def close(self, client: Client) -> None:
        client.close()
        self.got.pop(client)

    @invariant()
    def slots_suffice(self) -> None:
        now = self.model.batch.statistics
        assert now.running + now.queued <= sum(client.most for client in self.got)

    def check(self, client: Client, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert piece.failure is None
            if piece.sample == SEARCH:
                found = [text.tokens for text in self.searches[client][0].found]
                assert found == self.searched[client.most]
                continue
            if piece.token is not None:
                self.got[client][piece.sample].append(piece.token)
            if piece.completion:
                drawn = tuple(self.got[client].pop(piece.sample))
                assert drawn == piece.completion.tokens == self.wanted[piece.sample]

    def teardown(self) -> None:
        for client in self.got:
            self.check(client, drained(client))
            client.close()
        assert_empty(self.model.batch)


@pytest.mark.slow
def test_a_text_is_the_same_whoever_joins_and_leaves(model: GPT2) -> None:
    wanted = [alone(model, request(n)) for n in range(16)]
    Callers.model, Callers.wanted = model, wanted
    Callers.searched = {width: best(model, width) for width in range(1, 5)}
    run_state_machine_as_test(
        Callers,
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True),
    )


# ---- threads


def test_threads_make_the_texts_of_one_and_share_their_steps(model: GPT2) -> None:
    requests = [request(n, 20) for n in range(8)]
    wanted = [alone(model, one) for one in requests]
    before, together = model.batch.statistics, threading.Barrier(8)

    def generate(one: Request) -> tuple[int, ...]:
        together.wait()
        return model.generate(one.prompt, one.params, one.stopping).tokens

    # A prompt's index is its sample, and these are all the first.
    same = [Request(r.prompt, r.params, r.stopping) for r in requests]
    wanted = [alone(model, one) for one in same]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(generate, same)) == wanted
    assert model.batch.statistics.tokens - before.tokens > 8 * 20


@pytest.mark.slow
def test_threads_that_take_pieces_at_their_own_pace_all_come_to_an_end(model: GPT2) -> None:
    wanted = [alone(model, request(n, 25)) for n in range(8)]
    found: dict[int, tuple[int, ...]] = {}

    def stream(number: int) -> None:
        dice = random.Random(number)
        for _ in range(4):
            for piece in model.run([request(number, 25)]):
                if dice.random() < 0.2:
                    time.sleep(dice.random() / 300)
                if piece.completion:
                    found[number] = piece.completion.tokens
            if dice.random() < 0.5:
                next(model.run([request(3, 25)]))  # left at once

    threads = [threading.Thread(target=stream, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    assert not hanging(threads)
    assert [found[n] for n in range(8)] == wanted


def test_a_step_serves_all_threads(model: GPT2) -> None:
    """The steps for eight texts side by side are those for one."""
    clients = [model.batch.client(1) for _ in range(8)]
    for n, client in enumerate(clients):
        client.submit(tasks(model, [request(n, 10)]))
    before = model.batch.statistics.steps
    found = completed([piece for client in clients for piece in drained(client)])
    assert model.batch.statistics.steps - before == 10
    for client in clients:
        client.close()
    assert found == {n: alone(model, request(n, 10)) for n in range(8)}


# ---- readers


def test_a_text_whose_reader_is_behind_rests(model: GPT2) -> None:
    slow, fast = model.run([request(0, 40)]), model.run([request(1, 40)])
    first = next(slow)
    others = list(fast)
    steps = model.batch.statistics.steps
    assert model.batch.statistics.running == 1
    rest = [first, *slow]
    assert model.batch.statistics.steps - steps == 40 - 1 - AHEAD
    assert completed(rest) == {0: alone(model, request(0, 40))}
    assert completed(others) == {1: alone(model, request(1, 40))}


def test_a_dropped_iterator_leaves_the_batch(model: GPT2) -> None:
    gc.disable()
    try:
        pieces = model.run([request(n) for n in range(9)], batch_size=4)
        next(pieces)
        assert model.batch.statistics.running == 4
        del pieces
        assert_empty(model.batch)
    finally:
        gc.enable()


def test_a_call_waits_for_its_own_text_only(model: GPT2) -> None:
    """And gets ends, not pieces."""
    wanted = alone(model, request(2, 3))
    with model.batch.client(2) as long, model.batch.client(1) as short:
        long.submit(tasks(model, [request(0, 30), request(1, 5)]))
        short.submit(tasks(model, [request(2, 3)]))
        (only,) = short.until_done()
        assert completed([only]) == {2: wanted}
        pieces = long.ready()
        assert {piece.sample for piece in pieces} == {0, 1}
        (end,) = (piece for piece in long.until_done() if piece.last)
        assert end.sample == 1


# ---- slots and queue


def test_slots_grow_with_the_callers_and_go_with_them(model: GPT2) -> None:
    with model.batch.client(1) as first:
        first.submit(tasks(model, [request(1, 20)]))
        pieces = first.take()
        assert model.batch.statistics.slots == 1
        with model.batch.client(3) as second:
            second.submit(tasks(model, [request(n, 20) for n in (2, 3, 4)]))
            others = drained(second)
            assert model.batch.statistics.slots == 4
        pieces += drained(first)
    found = completed([*pieces, *others])
    assert found == {n: alone(model, request(n, 20)) for n in (1, 2, 3, 4)}


def limited(model: GPT2, slots: int, queue: int | None = None) -> Engines:
    """With a batch of that many slots."""
    engines = Engines(model.new_slots)
    engines.batch.limit(slots, queue)
    return engines


def test_owners_take_turns_in_the_queue(model: GPT2) -> None:
    engines = limited(model, 1)
    batch = engines.batch
    greedy = [batch.client(9, owner="greedy") for _ in range(2)]
    modest = batch.client(9, owner="modest")
    for n, client in enumerate(greedy):
        client.submit(tasks(model, [request(4 * n + m, 1) for m in range(3)]))
    modest.submit(tasks(model, [request(n, 1) for n in (8, 9)]))
    order: list[int] = []
    while any(client.in_flight for client in (*greedy, modest)):
        modest.call(lambda: None)
        for client in (*greedy, modest):
            order += [piece.sample for piece in client.ready()]
    assert order == [0, 8, 1, 9, 2, 4, 5, 6]


def test_a_full_queue_refuses_who_does_not_wait(model: GPT2) -> None:
    engines = limited(model, slots=2, queue=1)
    batch = engines.batch
    client = batch.client(9)
    client.submit(tasks(model, [request(n) for n in range(3)]), wait=False)
    with pytest.raises(QueueFull, match="3 texts wait already, and 1 may; try again later"):
        client.submit(tasks(model, [request(3)]), wait=False)
    client.submit(tasks(model, [request(4)]))
    assert completed(drained(client)) == {n: alone(model, request(n)) for n in (0, 1, 2, 4)}
    client.submit(tasks(model, [request(5)]), wait=False)
    client.close()
    assert batch.statistics.slots == 2  # kept
    batch.limit(None, None)
    batch.client(1).close()
    assert_empty(batch)


def test_slots_that_cannot_be_had_are_the_failure_of_who_asked(model: GPT2) -> None:
    def few(count: int) -> Slots:
        if count > 2:
            raise MemoryError("no more")
        return model.new_slots(count)

    engines = Engines(few)
    batch = engines.batch
    with batch.client(2) as first, batch.client(1) as second:
        first.submit(tasks(model, [request(0), request(1)]))
        pieces = first.take()
        second.submit(tasks(model, [request(2)]))
        (failed,) = second.take()
        assert isinstance(failed.failure, StepFailed)
        assert completed([*pieces, *drained(first)]).keys() == {0, 1}


# ---- errors


class Breaking:
    """Slots that raise at a step, once."""

    def __init__(self, slots: Slots, at: int, error: BaseException) -> None:
        self._slots, self.count, self.budget = slots, slots.count, slots.budget
        self.prefixes = slots.prefixes
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


# ---- closing, waking


def test_a_closed_model_ends_what_is_in_progress(tiny_models: dict[str, GPT2]) -> None:
    model = GPT2(tiny_models["fp32"].bundle)
    pieces = model.stream_batch(PROMPTS, SamplingParams(), Stopping(9, end_of_text=False))
    next(pieces)
    model.close()
    with pytest.raises(InvalidSetting, match="is closed; load it again"):
        list(pieces)
    with pytest.raises(InvalidSetting, match="is closed; load it again"):
        next(model.run([request(0)]))


def test_who_does_not_wait_is_called_once_a_step(model: GPT2) -> None:
    calls: list[int] = []

    def wake() -> None:
        calls.append(1)

    engines = limited(model, 8)
    batch = engines.batch
    clients = [batch.client(2, wake=wake) for _ in range(3)]
    for n, client in enumerate(clients):
        client.submit(tasks(model, [request(n, 7), request(n + 3, 7)]))
    before = batch.statistics.steps
    batch.drive()
    assert len(calls) == batch.statistics.steps - before == 7
    found = completed([piece for client in clients for piece in client.ready()])
    assert found == {n: alone(model, request(n, 7)) for n in range(6)}
    batch.drive()  # there is nothing to do
    assert len(calls) == 7


def test_one_thread_steps_for_all_and_gives_way(model: GPT2) -> None:
    """To a thread that needs the lead, such as one that forks or closes the model."""
    engines = limited(model, 2)
    batch = engines.batch
    client = batch.client(1, wake=lambda: None)
    client.submit(tasks(model, [request(4, 3000)]))  # it slides
    thread = threading.Thread(target=batch.drive, daemon=True)
    thread.start()
    for n in range(50):
        batch.limit(2, n)
    batch.close(InvalidSetting("enough"))
    assert not hanging([thread])
    assert str(client.ready()[-1].failure) == "enough"


# ---- garbage and forks


def test_the_garbage_collector_may_close_a_client_anywhere(model: GPT2) -> None:
    """Even in a thread that holds the lock; its slots are free at the next step."""
    with model.batch.client(1) as other:
        client = model.batch.client(2)
        client.submit(tasks(model, [request(0), request(1)]))
        client.take()
        with model.batch.lock:
            client.close()
        other.submit(tasks(model, [request(2)]))
        drained(other)
        assert model.batch.statistics.running == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_goes_on_with_texts_that_a_thread_of_its_parent_stepped(
    tiny_models: dict[str, GPT2],
) -> None:
    model = tiny_models["fp32"]
    wanted = [alone(model, request(n, 30)) for n in range(3)]
    engines = limited(model, 4)
    batch = engines.batch
    endless = batch.client(1, wake=lambda: None)
    endless.submit(tasks(model, [request(4, 10_000)]))  # it slides
    thread = threading.Thread(target=batch.drive, daemon=True)
    thread.start()
    for n in range(20):
        client = batch.client(1)
        client.submit(tasks(model, [request(n % 3, 30)]))
        child = os.fork()
        if child == 0:
            os._exit(0 if completed(drained(client)) == {n % 3: wanted[n % 3]} else 3)
        until = time.monotonic() + WATCHDOG
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            time.sleep(0.01)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
        assert ended[0] == child, "the child hangs"
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        assert completed(drained(client)) == {n % 3: wanted[n % 3]}  # and so does the parent
        client.close()
    endless.close()
    batch.close(InvalidSetting("enough"))
    assert not hanging([thread])
