"""What is selected on the device: the likeliest tokens, and what a draw takes from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_device import MEMORY, PROVIDER
from gpt2rt import HParams, SamplingParams
from gpt2rt.engine.cuda import CudaSlots, Device
from gpt2rt.engine.providers import Threads, graph_of, open_session
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadLogits
from gpt2rt.sampling.filters import candidates, chunk_sums, pick, softmax_weights
from gpt2rt.sampling.sampling import NUMBERS, choose
from gpt2rt.sampling.selection import Draw, Row, Selected
from models import LargerWeights, make_bundle

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda

WIDE = HParams(n_vocab=700, n_ctx=24, n_embd=32, n_head=2, n_layer=2)  # more than is selected


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> CudaSlots:
    weights = LargerWeights(WIDE, seed=5)
    bundle = make_bundle(tmp_path_factory.mktemp("wide") / "bundle", weights, "fp16")
    opened = open_session(graph_of(bundle, "cuda"), Threads(1), PROVIDER)
    return Device(opened, WIDE, MEMORY()).slots(8)


def rows(wide: CudaSlots, draws: list[Draw]) -> Selected:
    count = len(draws)
    wide.step([Part(slot, 0, [slot + 1, 2 * slot + 5]) for slot in range(count)])
    found = wide.step([Part(slot, 2, [10 + slot]) for slot in range(count)], draws)
    assert isinstance(found, Selected)
    return found


def test_the_likeliest_come_first_and_the_mass_is_the_sum(wide: CudaSlots) -> None:
    for row in rows(wide, [Draw(heat) for heat in (0.5, 1.0, 2.0, 5.0)]):
        logits = np.asarray(row)
        np.testing.assert_array_equal(row.logits, np.sort(logits)[::-1][: len(row.ids)])
        np.testing.assert_array_equal(logits[row.ids], row.logits)
        weights = np.exp((logits.astype(np.float64) - logits.max()) * row.draw.inverse_temperature)
        assert row.normaliser == pytest.approx(weights.sum(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_drawn_token_is_the_one_the_number_falls_on(
    wide: CudaSlots, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature)
    numbers = np.random.default_rng(3).random(64).tolist()
    for start in range(0, 64, 8):
        chosen = [Draw(1 / temperature, number) for number in numbers[start : start + 8]]
        for row in rows(wide, chosen):
            weights = softmax_weights(np.asarray(row), temperature)
            fallen = pick(weights, chunk_sums(weights), row.draw.uniform)
            assert choose(replace(row, fetch=unwanted), params, [0.5]) == fallen


@pytest.mark.parametrize("number", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_the_ends_of_the_unit_interval_fall_on_tokens_that_can_be_drawn(
    wide: CudaSlots, number: float
) -> None:
    for heat in (1.0, 60.0):  # at 60 most weights are 0
        for row in rows(wide, [Draw(heat, float(number))] * 4):
            logits = np.asarray(row)
            assert np.exp((logits[row.drawn] - logits.max()) * np.float32(heat)) > 0


SETTINGS = [
    SamplingParams(temperature=0),
    SamplingParams(top_k=1),
    SamplingParams(top_k=40, temperature=0.7),
    SamplingParams(top_k=200, top_p=0.8, min_p=0.01),
    SamplingParams(top_k=40, typical_p=0.5),
    SamplingParams(top_k=40, top_p=0.5, compat="openai"),
]


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_the_best_and_top_k_give_the_tokens_that_the_whole_row_gives(
    wide: CudaSlots, params: SamplingParams
) -> None:
    random = np.random.default_rng(1)
    for row in rows(wide, [Draw()] * 8):
        without = replace(row, fetch=unwanted)
        for _ in range(20):
            uniforms = random.random(NUMBERS).tolist()
            assert choose(without, params, uniforms) == choose(np.asarray(row), params, uniforms)


def test_a_greedy_choice_takes_no_random_number(wide: CudaSlots) -> None:
    for row in rows(wide, [Draw()] * 3):
        best = int(np.asarray(row).argmax())
        assert choose(replace(row, fetch=unwanted), SamplingParams(temperature=0), []) == best


def unwanted() -> NDArray[np.float32]:
    raise AssertionError("the whole row was fetched")


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_p=0.3),
        SamplingParams(top_p=0.5, temperature=0.6),
        SamplingParams(top_p=0.5, temperature=0.6, compat="openai"),
        SamplingParams(min_p=0.2),
        SamplingParams(top_p=0.6, min_p=0.1, temperature=0.5),
    ],
    ids=str,
)
def test_a_nucleus_is_drawn_from_as_often_as_it_should_be(
    wide: CudaSlots, params: SamplingParams
) -> None:
    """Over the range of the last random number, every token has its share."""
    for row in rows(wide, [Draw(1 / params.temperature)] * 3):
        without = replace(row, fetch=unwanted)
        ids, found_weights = candidates(np.asarray(row), params)
        weights = np.zeros(WIDE.n_vocab)
        weights[slice(None) if ids is None else ids] = found_weights
        sweep = (np.arange(4000) + 0.5) / 4000
        found = Counter(choose(without, params, [number]) for number in sweep)
        assert set(found) <= set(np.flatnonzero(weights).tolist())
        shares = np.array([found[token] for token in range(WIDE.n_vocab)]) / len(sweep)
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=2 / len(sweep) + 1e-4)


def test_what_the_selection_cannot_tell_comes_from_the_whole_row() -> None:
    logits = np.linspace(0, 1, 700).astype(np.float32)
    order = np.argsort(-logits)[:256]
    fetched = []

    def fetch() -> NDArray[np.float32]:
        fetched.append(1)
        return logits

    row = Row(order, logits[order], float(np.exp(logits - 1).sum()), 3, Draw(), 700, fetch)
    settings = [
        SamplingParams(top_p=0.99),
        SamplingParams(min_p=0.1),
        SamplingParams(typical_p=0.9),
        SamplingParams(top_k=300),
    ]
    for number, params in enumerate(settings, 1):
        assert choose(row, params, [0.5] * NUMBERS) == choose(logits, params, [0.5] * NUMBERS)
        assert len(fetched) == number
    flat = replace(row, logits=np.ones(256, np.float32))  # ties go on beyond what was selected
    choose(flat, SamplingParams(top_k=9), [0.5] * NUMBERS)
    assert len(fetched) == len(settings) + 1
    broken = replace(row, normaliser=float("nan"), fetch=lambda: np.full(700, np.nan, np.float32))
    with pytest.raises(BadLogits):
        choose(broken, SamplingParams(), [0.5] * NUMBERS)


def test_rows_of_any_part_are_drawn_from_by_its_own_draw(wide: CudaSlots) -> None:
    wide.step([Part(slot, 0, [3, 5, slot], 0) for slot in range(8)])
    parts = [Part(6, 3, [1]), Part(0, 0, [4, 5], 2), Part(2, 3, [9]), Part(3, 2, [8, 8])]
    draws = [Draw(1 + number / 4, 0.1 + number / 5) for number in range(5)]
    logits = np.asarray(wide.step(parts))
    found = wide.step(parts, draws)
    assert isinstance(found, Selected)
    for row, plain, draw in zip(found, logits, draws, strict=True):
        assert row.draw == draw
        np.testing.assert_array_equal(np.asarray(row), plain)
        weights = softmax_weights(plain, 1 / draw.inverse_temperature)
        assert row.drawn == pick(weights, chunk_sums(weights), draw.uniform)
