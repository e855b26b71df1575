"""The end of a batch: closing, waking, garbage collection, forks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from callers import PROMPTS, alone, completed, drained, request, tasks
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.errors import InvalidSetting
from shared_batch import WATCHDOG, hanging, left_empty, limited


@pytest.fixture
def model(tiny_models: dict[str, GPT2]) -> Iterator[GPT2]:
    with left_empty(tiny_models["fp32"]) as found:
        yield found


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
    client.submit(tasks(model, [request(4, 10**6)]))  # it slides
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
    endless.submit(tasks(model, [request(4, 10**6)]))  # it slides
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
