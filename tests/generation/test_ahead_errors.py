"""Who leaves while a step is on its way, and what fails then, changes no other text."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from callers import Callers, alone, best, completed, drained, request, tasks
from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.errors import BadBundle, Gpt2rtError, OutOfMemory, StepFailed
from late_device import LateSession, late_device
from steps_ahead import GREEDY, OPENERS, model_on, of, run, told


@pytest.fixture(params=sorted(OPENERS))
def device(request: pytest.FixtureRequest, tiny_bundles: dict[str, Bundle]) -> Device:
    return OPENERS[request.param](tiny_bundles["fp16"])


@pytest.fixture
def model(device: Device, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> GPT2:
    return model_on(device, tiny_bundles["fp16"], monkeypatch)


@pytest.fixture
def late(tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> GPT2:
    gc.collect()  # a device of another test would do what it has queued meanwhile, and fail for it
    return model_on(late_device(tiny_bundles["fp16"]), tiny_bundles["fp16"], monkeypatch)


def test_any_interleaving_of_clients(late: GPT2) -> None:
    Callers.model = late
    Callers.wanted = [alone(late, request(n)) for n in range(16)]
    Callers.searched = {width: best(late, width) for width in range(1, 5)}
    run_state_machine_as_test(
        Callers,
        settings=settings(max_examples=15, stateful_step_count=30),
    )


def test_a_stream_that_is_given_up_changes_no_other_text(model: GPT2) -> None:
    wanted = model.generate("the cat", GREEDY, Stopping(12)).tokens
    for taken in range(1, 6):
        pieces: Iterator[object] = model.stream("x", SamplingParams(seed=1), Stopping(30))
        for _ in islice(pieces, taken):
            pass
        del pieces
        assert model.generate("the cat", GREEDY, Stopping(12)).tokens == wanted
    assert model.batch.statistics.running == 0


def test_threads_make_the_texts_of_one(model: GPT2) -> None:
    requests = [request(n, 12) for n in range(6)]
    wanted = [model.generate(r.prompt, r.params, r.stopping).tokens for r in requests]
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(
            lambda r: model.generate(r.prompt, r.params, r.stopping).tokens, requests * 3
        )
        assert list(found) == wanted * 3


@pytest.mark.parametrize("error", [OutOfMemory("no room"), BadBundle("odd"), RuntimeError("odd")])
@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_step_ahead_that_cannot_be_started_is_made_in_its_turn(
    model: GPT2, device: Device, monkeypatch: pytest.MonkeyPatch, at: int, error: Exception
) -> None:
    params = SamplingParams(top_k=9)
    requests = [replace(of(params, 6 + n, f"{n}"), sample=n) for n in range(3)]
    wanted, _ = run(model, device, requests, 3)
    step, calls = CudaSlots.step, []

    def failing(self: CudaSlots, *given: object) -> object:
        calls.append(1)
        if len(calls) == at:
            raise error
        return step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(CudaSlots, "step", failing)
    found, _ = run(model, device, requests, 3)
    assert told(found) == told(wanted)


def test_a_step_that_fails_again_in_its_turn_is_an_error_after_all_that_was_drawn(
    model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = model.generate("a", GREEDY, Stopping(8, end_of_text=False)).tokens
    original = Call.run
    left = [8]  # runs: a body and a tail each, one of them for the prompt

    def failing(self: Call) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OutOfMemory("no room")
        original(self)

    monkeypatch.setattr(Call, "run", failing)
    pieces = model.run([Request("a", GREEDY, Stopping(8, end_of_text=False))])
    assert tuple(piece.token for piece in islice(pieces, 4)) == wanted[:4]
    with pytest.raises(OutOfMemory):
        next(pieces)


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(top_p=0.9, seed=1), SamplingParams(top_k=9, seed=1)]
)
def test_no_failure_of_the_device_is_lost(
    late: GPT2, monkeypatch: pytest.MonkeyPatch, params: SamplingParams
) -> None:
    """Nor where the step ahead needs the tokens, and so is the first to wait."""
    for number in range(3, 13):
        left = iter(range(number))

        def fails(left: Iterator[int] = left, last: int = number - 1) -> None:
            if next(left, 0) == last:
                raise RuntimeError("an illegal address")

        monkeypatch.setattr(LateSession, "fails", staticmethod(fails))
        with pytest.raises(Gpt2rtError, match="an illegal address"):
            late.generate("a", params, Stopping(12, end_of_text=False))


def test_what_fails_on_the_device_fails_as_a_step(
    late: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = late.generate("a", GREEDY, Stopping(8)).tokens
    left = [9]

    def fails() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("an illegal address")

    monkeypatch.setattr(LateSession, "fails", staticmethod(fails))
    batch = late.batch
    with batch.client(1) as leader, batch.client(2) as other:
        leader.submit(tasks(late, [request(0)]))
        other.submit(tasks(late, [request(1), request(2)]))
        with pytest.raises(Gpt2rtError, match="an illegal address"):
            drained(leader)
        last = [piece for piece in other.ready() if piece.last]
        assert [str(piece.failure) for piece in last] == [str(last[0].failure)] * 2
        assert batch.statistics.failures == 1
    assert late.generate("a", GREEDY, Stopping(8)).tokens == wanted


def test_a_batch_that_is_closed_in_between_ends_its_texts(model: GPT2) -> None:
    batch = model.batch
    with batch.client(2) as client:
        client.submit(tasks(model, [request(1), request(2)]))
        pieces = client.take()
        batch.close(StepFailed("closed"))
        pieces += client.ready()
        assert [str(piece.failure) for piece in pieces if piece.last] == ["closed"] * 2


def test_slots_become_more_while_a_step_is_on_its_way(model: GPT2) -> None:
    wanted = {n: alone(model, request(n, 9)) for n in range(5)}
    with model.batch.client(1) as first, model.batch.client(4) as second:
        first.submit(tasks(model, [request(0, 9)]))
        pieces = [*first.take(), *first.take()]
        second.submit(tasks(model, [request(n, 9) for n in range(1, 5)]))
        found = completed([*pieces, *drained(first), *drained(second)])
    assert found == wanted
