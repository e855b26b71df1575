"""Steps that a device is given before the one before is done: no text changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.device import Device
from steps_ahead import GREEDY, OPENERS, model_on, of, run, told


@pytest.fixture(params=sorted(OPENERS))
def device(request: pytest.FixtureRequest, tiny_bundles: dict[str, Bundle]) -> Device:
    return OPENERS[request.param](tiny_bundles["fp16"])


@pytest.fixture
def model(device: Device, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> GPT2:
    return model_on(device, tiny_bundles["fp16"], monkeypatch)


# ---- any texts


SETTINGS = [
    GREEDY,
    SamplingParams(temperature=0.8),
    SamplingParams(top_k=40),
    SamplingParams(top_k=5, top_p=0.8, temperature=1.3),
    SamplingParams(top_p=0.5),
    SamplingParams(top_p=0.99, temperature=3.0),
    SamplingParams(min_p=0.1),
    SamplingParams(top_k=255),  # with ties, more than the device has a list of
]
SLOW = [
    SamplingParams(top_k=20, repetition_penalty=1.3),
    SamplingParams(temperature=0, frequency_penalty=1.0),
    SamplingParams(typical_p=0.5),
    SamplingParams(top_p=0.8, compat="openai"),
    SamplingParams(min_length=1),
    SamplingParams(top_k=280),  # the device would tell none, and each step ahead be for nothing
]
PROMPTS = ["the cat", "a", "many more words than there are in the others", "x y z", "the cat sat"]
STOPPINGS = st.builds(
    Stopping,
    length=st.integers(1, 9),
    strings=st.lists(st.sampled_from(["e", "th", "a b", "!"]), max_size=2),
    tokens=st.lists(st.integers(0, 299), max_size=40),
    end_of_text=st.booleans(),
)
LONG = st.sampled_from(
    [Stopping(end_of_text=False), Stopping(70, end_of_text=False, overflow="slide")]
)


def any_requests(params: Sequence[SamplingParams]) -> st.SearchStrategy[list[Request]]:
    """Up to ten requests, some with the same prompt, some with log-probabilities."""
    one = st.builds(
        Request,
        st.sampled_from(PROMPTS),
        st.sampled_from(params),
        st.one_of(STOPPINGS, STOPPINGS, LONG),
        logprobs=st.just(False) if params is SETTINGS else st.booleans(),
    )
    return st.lists(one, min_size=1, max_size=10)


def numbered(requests: Sequence[Request]) -> list[Request]:
    return [
        replace(one, params=replace(one.params, seed=number % 3), sample=number)
        for number, one in enumerate(requests)
    ]


FEW = settings(max_examples=25)


@given(requests=any_requests(SETTINGS), count=st.integers(1, 6))
@FEW
def test_texts_are_the_same_as_without_steps_ahead(
    model: GPT2, device: Device, requests: list[Request], count: int
) -> None:
    """Whatever ends them, and with texts that join and leave in between."""
    requests = numbered(requests)
    wanted, _ = run(model, device, requests, count, ahead=False)
    found, _ = run(model, device, requests, count)
    assert told(found) == told(wanted)


@given(requests=any_requests([*SETTINGS[:4], *SLOW]), count=st.integers(1, 6))
@FEW
def test_texts_are_the_same_beside_some_that_need_the_host(
    model: GPT2, device: Device, requests: list[Request], count: int
) -> None:
    requests = numbered(requests)
    wanted, _ = run(model, device, requests, count, ahead=False)
    found, _ = run(model, device, requests, count)
    assert told(found) == told(wanted)


# ---- which steps go ahead


@pytest.mark.parametrize("params", SETTINGS[:5], ids=str)
def test_all_steps_go_ahead_but_the_first_and_none_is_for_nothing(
    model: GPT2, device: Device, params: SamplingParams
) -> None:
    requests = [replace(of(params, prompt=text), sample=n) for n, text in enumerate(PROMPTS[:3])]
    _, after = run(model, device, requests, 3)
    assert after == [0, *[3] * 7]


@pytest.mark.parametrize("params", SLOW, ids=str)
def test_no_step_goes_ahead_of_a_text_that_needs_the_host(
    model: GPT2, device: Device, params: SamplingParams
) -> None:
    slow = of(params)
    if params.min_length:
        slow = replace(slow, stopping=Stopping(8, tokens=[7]))
    _, after = run(model, device, [slow, replace(of(GREEDY, 20, "x"), sample=1)], 2)
    assert after == [*[0] * 9, *[1] * 11]  # the other text goes on alone


def test_a_prompt_that_comes_is_read_by_a_step_that_goes_ahead(model: GPT2, device: Device) -> None:
    requests = [replace(of(GREEDY, 4 + 3 * n, f"{n} x"), sample=n) for n in range(5)]
    _, after = run(model, device, requests, 2)
    assert after.count(0) <= 2
    assert sum(after) >= sum(3 + 3 * n for n in range(5)) - 2


def test_steps_do_not_go_ahead_where_the_device_is_not_trusted(model: GPT2, device: Device) -> None:
    wanted, _ = run(model, device, [of(GREEDY)], 1)
    device.distrust("it is made up")
    found, after = run(model, device, [of(GREEDY)], 1)
    assert found[0].tokens == wanted[0].tokens
    assert not any(after)
