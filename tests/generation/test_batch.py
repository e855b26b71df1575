"""The batch that callers share: who joins, leaves and waits changes no other's text."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from batches import Engines
from callers import Callers, alone, assert_empty, best, completed, drained, request, tasks
from gpt2rt import GPT2, Request
from gpt2rt.engine.slots import Slots
from gpt2rt.errors import QueueFull, StepFailed
from gpt2rt.generation.batch import AHEAD
from shared_batch import hanging, left_empty, limited


@pytest.fixture
def model(tiny_models: dict[str, GPT2]) -> Iterator[GPT2]:
    with left_empty(tiny_models["fp32"]) as found:
        yield found


@pytest.mark.slow
def test_a_text_is_the_same_whoever_joins_and_leaves(model: GPT2) -> None:
    wanted = [alone(model, request(n)) for n in range(16)]
    Callers.model, Callers.wanted = model, wanted
    Callers.searched = {width: best(model, width) for width in range(1, 5)}
    run_state_machine_as_test(
        Callers,
        settings=settings(max_examples=60, stateful_step_count=30, derandomize=True),
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
