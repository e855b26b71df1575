"""The filters: equal to simple implementations of them, with everything sorted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt import SamplingParams
from gpt2rt.sampling import filters
from gpt2rt.sampling.filters import (
    EVERY,
    SORTED,
    in_openai_top_p,
    in_top_p,
    in_typical_p,
    keep_top_k,
    softmax_weights,
)
from gpt2rt.sampling.sampling import EXCESS, NUMBERS, bounds, choose
from sampled import MIXES, dense, rows


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return np.asarray(e / e.sum())


# ---- the plainest restatements: everything sorted, in float64


def plain_top_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    inside = np.zeros(len(order), bool)
    inside[order] = np.cumsum(ranked) - ranked < p
    return inside


def plain_openai_top_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    ranked = np.sort(probabilities)[::-1]
    count = max(int((np.cumsum(ranked) <= p).sum()), 1)
    return np.asarray(probabilities >= ranked[count - 1])


def plain_typical_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    alive = probabilities > 0
    surprisal = -np.log(np.where(alive, probabilities, 1))
    strangeness = np.where(alive, np.abs(surprisal - (probabilities * surprisal).sum()), np.inf)
    order = np.argsort(strangeness, kind="stable")
    ranked = probabilities[order]
    inside = np.zeros(len(order), bool)
    inside[order] = np.cumsum(ranked) - ranked < p
    return np.asarray(inside & alive)


def plain(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The tokens that may be drawn, in Transformers' order of filters."""
    x = logits.astype(np.float64) / params.temperature
    if params.top_k:
        x = np.where(x >= np.sort(x)[::-1][min(params.top_k, len(x)) - 1], x, -np.inf)
    if params.top_p < 1:
        rule = plain_openai_top_p if params.compat == "openai" else plain_top_p
        x = np.where(rule(softmax(x), params.top_p), x, -np.inf)
    if params.min_p > 0:
        p = softmax(x)
        x = np.where(p >= params.min_p * p.max(), x, -np.inf)
    if params.typical_p < 1:
        x = np.where(plain_typical_p(softmax(x), params.typical_p), x, -np.inf)
    return softmax(x)


@given(rows)
def test_neutral_parameters_give_the_softmax(logits: np.ndarray) -> None:
    np.testing.assert_allclose(
        dense(logits, SamplingParams()), softmax(logits), rtol=1e-5, atol=1e-30
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.sampled_from([0.5, 3.0, 9.0]), MIXES)
def test_any_mix_is_the_plain_one(seed: int, n: int, deviation: float, mix: SamplingParams) -> None:
    """On random rows, without ties and without sums exactly at a limit."""
    logits = (np.random.default_rng(seed).standard_normal(n) * deviation).astype(np.float32)
    np.testing.assert_allclose(dense(logits, mix), plain(logits, mix), rtol=2e-4, atol=1e-12)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_a_real_vocabulary_is_no_different(deviation: float, p: float) -> None:
    """With so many tokens that the nucleus is found by sampling rather than by sorting."""
    logits = np.random.default_rng(3).standard_normal(50_257).astype(np.float32)
    weights = np.exp(deviation * logits)
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    for mine, other in (
        (in_top_p, plain_top_p),
        (in_openai_top_p, plain_openai_top_p),
        (in_typical_p, plain_typical_p),
    ):
        differing = shares[mine(weights, p) != other(shares, p)]
        assert differing.sum() < 1e-5, "rounding may move the border by a token"


@given(rows, st.integers(1, 250))
def test_top_k_keeps_the_k_best_and_ties(logits: np.ndarray, k: int) -> None:
    k = min(k, len(logits))
    threshold = np.sort(logits)[::-1][k - 1]
    np.testing.assert_array_equal(keep_top_k(logits, k), np.flatnonzero(logits >= threshold))


@given(rows, st.floats(0.01, 0.999))
def test_top_p_is_the_smallest_set_that_reaches_p(logits: np.ndarray, p: float) -> None:
    weights = np.exp(logits - logits.max())
    probabilities = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    inside = in_top_p(weights, p)
    kept, others = probabilities[inside], probabilities[~inside]
    assert kept.sum() >= p - 1e-9
    assert kept.sum() - kept.min() < p + 1e-9, "the last one was not needed"
    if len(others):
        assert others.max() <= kept.min()


def test_top_p_keeps_the_token_that_crosses_and_openai_does_not() -> None:
    weights = np.array([0.09, 0.5, 0.41], np.float32)
    assert in_top_p(weights, 0.9).tolist() == [False, True, True]
    assert in_openai_top_p(weights, 0.9).tolist() == [False, True, False]
    assert in_openai_top_p(weights, 0.1).tolist() == [False, True, False], "never none"
    even = np.array([0.25, 0.25, 0.25, 0.25], np.float32)
    assert in_openai_top_p(even, 0.5).all(), "ties of the last one kept stay"


@pytest.mark.parametrize("n", [10, SORTED + 1, 50_257])
def test_top_p_of_a_flat_row_keeps_the_first(n: int) -> None:
    wanted = np.arange(n) < math.ceil(n / 2)
    np.testing.assert_array_equal(in_top_p(np.ones(n, np.float32), 0.5), wanted)


@pytest.mark.parametrize("n", [1, 300, 50_257])
def test_the_smallest_p_keeps_one(n: int) -> None:
    for weights in (np.ones(n, np.float32), np.linspace(0.1, 1, n, dtype=np.float32)):
        assert in_top_p(weights, 1e-310).sum() == 1
        assert in_openai_top_p(weights, 1e-310)[np.argmax(weights)]


def test_top_p_of_half_a_row_of_zeros_is_the_other_half() -> None:
    weights = np.tile(np.array([0, 1], np.float32), 10_000)
    np.testing.assert_array_equal(in_top_p(weights, 0.999999), weights > 0)


def test_top_p_is_not_misled_by_a_row_whose_sample_lies() -> None:
    """Every sampled weight differs from all others, so the sample is misleading."""
    for seen, others in ((1.0, 1e-3), (1e-3, 1.0)):
        weights = np.full(EVERY * SORTED, others, np.float32)
        weights[::EVERY] = seen
        weights *= np.linspace(1, 1.5, len(weights), dtype=np.float32)
        shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
        differing = shares[in_top_p(weights, 0.7) != plain_top_p(shares, 0.7)]
        assert differing.sum() < 1e-4


def test_temperature_divides_before_top_p() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    params = SamplingParams(temperature=0.5, top_p=0.6)
    assert np.flatnonzero(dense(logits, params)).tolist() == [0]  # normalised: .66, .24, .11


@given(rows, st.sampled_from([1e-20, 0.3, 1.0, 1.7, 1e20]))
def test_bounds_are_above_the_weights_and_close(logits: np.ndarray, temperature: float) -> None:
    weights, above = softmax_weights(logits, temperature), bounds(logits, logits.max(), temperature)
    seen = weights > 1e-37  # less is nothing
    assert (above[seen] >= weights[seen] * (1 - 1e-4)).all()
    assert (above <= weights * EXCESS + 1e-37).all()


def test_what_is_ruled_out_weighs_nothing() -> None:
    logits = np.array([-np.inf, -30, -1000, 2], np.float32)
    assert (bounds(logits, 2.0, 1.0) > 0).tolist() == [False, True, False, True]


# ---- the table of filters


def not_the_best(weights: np.ndarray, params: SamplingParams) -> np.ndarray:
    return np.asarray(weights < 1)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_p=0.9, min_p=0.01)])
def test_a_filter_in_the_table_counts_in_every_draw(
    params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.array([5.0, 1.0, 4.5, 4.0], np.float32)
    added = filters.Filter(active=lambda params: True, keep=not_the_best)
    monkeypatch.setattr(filters, "FILTERS", (*filters.FILTERS, added))
    numbers = np.random.default_rng(1).random((200, NUMBERS)).tolist()
    draws = {choose(logits, params, uniforms) for uniforms in numbers}
    assert draws == {1, 2, 3} if params.top_p == 1 else draws == {2, 3}
