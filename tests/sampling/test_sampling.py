"""The draw: as often as the weights say, repeatable, and errors for broken logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpt2rt import SamplingParams
from gpt2rt.errors import BadLogits, InvalidSetting
from gpt2rt.sampling.filters import (
    chunk_sums,
    pick,
)
from gpt2rt.sampling.history import Edits
from gpt2rt.sampling.sampling import NUMBERS, Sampler, choose
from sampled import MIXES, dense, rows

# A row whose border of top-p 0.5 lies within what bounds leave open: the weights have to be known.
UNDECIDED = np.log(np.array([0.49, 0.02, 0.47, 0.02], np.float32))


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([0.5, 3.0]), MIXES)
@example(0, 0, 1.0, SamplingParams(top_p=0.5))
@example(0, 0, 1.0, SamplingParams(top_p=0.5, compat="openai"))
@example(1, 60, 0.5, SamplingParams(top_p=0.001))
@example(1, 60, 0.5, SamplingParams(top_p=0.5, min_p=0.9))
@settings(max_examples=25)
def test_a_token_comes_as_often_as_its_weight_says(
    seed: int, n: int, deviation: float, mix: SamplingParams
) -> None:
    """By the chi-squared test, p = 1e-6."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(n) * deviation).astype(np.float32) if n else UNDECIDED
    wanted = dense(logits, mix)
    draws = [choose(logits, mix, row) for row in rng.random((2000, NUMBERS)).tolist()]
    counts = np.bincount(draws, minlength=len(logits))
    assert not counts[wanted == 0].any()
    common = 2000 * wanted >= 5
    expected = np.append(2000 * wanted[common], 2000 * wanted[~common].sum() + 1e-9)
    seen = np.append(counts[common], counts[~common].sum())
    freedom = np.count_nonzero(common)
    limit = freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3
    assert ((seen - expected) ** 2 / np.maximum(expected, 1)).sum() <= limit + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.56, 3.0])
@pytest.mark.parametrize("mix", [{}, {"top_p": 0.5}, {"top_p": 0.9, "min_p": 0.02}])
def test_a_real_vocabulary_is_drawn_from_evenly(deviation: float, mix: dict[str, float]) -> None:
    """Ten parts of about equal weight have their shares of 2,000 draws (chi-squared, p = 1e-6)."""
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal(50_257) * deviation).astype(np.float32)
    params = SamplingParams(**mix)  # type: ignore[arg-type]
    wanted = dense(logits, params)
    order = np.argsort(logits)
    part = np.empty(len(logits), int)
    part[order] = (10 * np.cumsum(wanted[order]) * (1 - 1e-9)).astype(int).clip(0, 9)
    draws = [choose(logits, params, row) for row in rng.random((2000, NUMBERS)).tolist()]
    assert (wanted[draws] > 0).all()
    expected = 2000 * np.bincount(part, wanted, 10)
    seen = np.bincount(part[draws], minlength=10)
    assert ((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum() < 45


@given(rows, st.integers(0, 2**64 - 1))
def test_every_draw_is_a_candidate(logits: np.ndarray, seed: int) -> None:
    params = SamplingParams(temperature=0.8, top_k=5, top_p=0.9, seed=seed)
    assert dense(logits, params)[Sampler(params, seed, 0).draw(logits)] > 0


@given(rows)
def test_greedy_is_the_argmax(logits: np.ndarray) -> None:
    assert Sampler(SamplingParams(temperature=0), 0, 0).draw(logits) == int(np.argmax(logits))


def test_tiny_temperature_tends_to_greedy_without_overflow() -> None:
    logits = np.array([1000, 1001, -1000], np.float32)
    assert Sampler(SamplingParams(temperature=1e-300), 1, 0).draw(logits) == 1


@pytest.mark.slow
def test_frequencies_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingParams(), 11, 0)
    counts = np.bincount([sampler.draw(logits) for _ in range(20_000)], minlength=4)
    expected = 20_000 * np.array([0.5, 0.3, 0.15, 0.05])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-squared, 3 degrees, p = .001


def test_seed_and_sample_number_fix_the_draws() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int, sample: int) -> list[int]:
        sampler = Sampler(SamplingParams(), seed, sample)
        return [sampler.draw(logits) for _ in range(20)]

    assert draws(1, 0) == draws(1, 0)
    assert draws(1, 0) != draws(1, 1)
    assert draws(1, 0) != draws(2, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_an_error(bad: float) -> None:
    logits = np.array([0, bad, 1], np.float32)
    with pytest.raises(BadLogits, match="token 1"):
        Sampler(SamplingParams(), 0, 0).draw(logits)


def test_where_nothing_is_left_the_error_says_so() -> None:
    with pytest.raises(InvalidSetting, match="rule out every"):
        choose(np.full(4, -np.inf, np.float32), SamplingParams(), [0.5])


def test_a_draw_leaves_the_logits_alone() -> None:
    logits = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    before = logits.copy()
    params = SamplingParams(top_p=0.5, repetition_penalty=2, logit_bias={3: 5.0})
    sampler = Sampler(params, 0, 0, Edits(bias=((3, 5.0),)), prompt=[1, 2])
    for _ in range(5):
        sampler.draw(logits)
    np.testing.assert_array_equal(logits, before)


def test_a_guess_is_the_draw_to_come() -> None:
    """A draft relies on it: for the same logits, the guess is the token that is drawn."""
    logits = np.random.default_rng(0).standard_normal((9, 300)).astype(np.float32)
    sampler = Sampler(SamplingParams(top_p=0.95), 5, 1)
    guesses = [sampler.guess(row, ahead) for ahead, row in enumerate(logits)]
    assert guesses == [sampler.draw(row) for row in logits]


def test_pick_covers_both_ends() -> None:
    weights = np.array([0.25, 0.0, 0.75], np.float32)
    assert pick(weights, chunk_sums(weights), 0.0) == 0
    assert pick(weights, chunk_sums(weights), 0.25) == 2
    assert pick(weights, chunk_sums(weights), np.nextafter(1, 0)) == 2
    first = np.array([1.0] + [0.0] * 600, np.float32)
    assert pick(first, chunk_sums(first), np.nextafter(1, 0)) == 0


@given(
    hnp.arrays(np.float32, st.integers(1, 2000), elements=st.floats(0.0, 1.0, width=32)),
    st.floats(0, 1, exclude_max=True),
)
def test_pick_is_inverse_transform_sampling(weights: np.ndarray, uniform: float) -> None:
    weights[0] += 0.5
    reached = np.cumsum(weights, dtype=np.float64) / weights.sum(dtype=np.float64)
    index = pick(weights, chunk_sums(weights), uniform)
    assert weights[index] > 0
    assert reached[index] >= uniform - 1e-9
    assert index == 0 or reached[index - 1] <= uniform + 1e-9
