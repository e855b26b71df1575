"""The sampler: equal to simple implementations of its filters and distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpt2rt import SamplingParams
from gpt2rt.errors import BadLogits, InvalidSetting
from gpt2rt.sampling import filters
from gpt2rt.sampling.filters import (
    EVERY,
    SORTED,
    candidates,
    chunk_sums,
    in_openai_top_p,
    in_top_p,
    in_typical_p,
    keep_top_k,
    pick,
    softmax_weights,
)
from gpt2rt.sampling.history import Edits
from gpt2rt.sampling.sampling import EXCESS, NUMBERS, Sampler, bounds, choose

rows = hnp.arrays(np.float32, st.integers(2, 200), elements=st.floats(-30, 30, width=32))
relaxed = settings(deadline=None, derandomize=True)


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


def dense(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The distribution that `candidates` describes, over the whole vocabulary."""
    ids, weights = candidates(logits, params)
    whole = np.zeros(len(logits))
    whole[slice(None) if ids is None else ids] = weights
    return np.asarray(whole / whole.sum())


@given(rows)
@relaxed
def test_neutral_parameters_give_the_softmax(logits: np.ndarray) -> None:
    np.testing.assert_allclose(
        dense(logits, SamplingParams()), softmax(logits), rtol=1e-5, atol=1e-30
    )


MIXES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 40, 500]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    typical_p=st.sampled_from([0.2, 0.9, 1.0]),
    compat=st.sampled_from([None, "openai"]),
)


@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.sampled_from([0.5, 3.0, 9.0]), MIXES)
@relaxed
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
@relaxed
def test_top_k_keeps_the_k_best_and_ties(logits: np.ndarray, k: int) -> None:
    k = min(k, len(logits))
    threshold = np.sort(logits)[::-1][k - 1]
    np.testing.assert_array_equal(keep_top_k(logits, k), np.flatnonzero(logits >= threshold))


@given(rows, st.floats(0.01, 0.999))
@relaxed
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
@relaxed
def test_bounds_are_above_the_weights_and_close(logits: np.ndarray, temperature: float) -> None:
    weights, above = softmax_weights(logits, temperature), bounds(logits, logits.max(), temperature)
    seen = weights > 1e-37  # less is nothing
    assert (above[seen] >= weights[seen] * (1 - 1e-4)).all()
    assert (above <= weights * EXCESS + 1e-37).all()


def test_what_is_ruled_out_weighs_nothing() -> None:
    logits = np.array([-np.inf, -30, -1000, 2], np.float32)
    assert (bounds(logits, 2.0, 1.0) > 0).tolist() == [False, True, False, True]


# A row whose border of top-p 0.5 lies within what bounds leave open: the weights have to be known.
UNDECIDED = np.log(np.array([0.49, 0.02, 0.47, 0.02], np.float32))


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([0.5, 3.0]), MIXES)
@example(0, 0, 1.0, SamplingParams(top_p=0.5))
@example(0, 0, 1.0, SamplingParams(top_p=0.5, compat="openai"))
@example(1, 60, 0.5, SamplingParams(top_p=0.001))
@example(1, 60, 0.5, SamplingParams(top_p=0.5, min_p=0.9))
@settings(deadline=None, derandomize=True, max_examples=25)
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
@relaxed
def test_every_draw_is_a_candidate(logits: np.ndarray, seed: int) -> None:
    params = SamplingParams(temperature=0.8, top_k=5, top_p=0.9, seed=seed)
    assert dense(logits, params)[Sampler(params, seed, 0).draw(logits)] > 0


@given(rows)
@relaxed
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
    with pytest.raises(BadLogits, match="rule out every"):
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
@relaxed
def test_pick_is_inverse_transform_sampling(weights: np.ndarray, uniform: float) -> None:
    weights[0] += 0.5
    reached = np.cumsum(weights, dtype=np.float64) / weights.sum(dtype=np.float64)
    index = pick(weights, chunk_sums(weights), uniform)
    assert weights[index] > 0
    assert reached[index] >= uniform - 1e-9
    assert index == 0 or reached[index - 1] <= uniform + 1e-9


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.5},
        {"top_k": 5.0},
        {"top_k": True},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"frequency_penalty": float("nan")},
        {"presence_penalty": 1e9},
        {"no_repeat_ngram": -1},
        {"min_length": 1.5},
        {"logit_bias": {3: float("nan")}},
        {"logit_bias": {"": 1.0}},
        {"logit_bias": [(1, 2.0), (1, 3.0)]},
        {"logit_bias": 7},
        {"bad_words": [""]},
        {"bad_words": "word"},
        {"bad_words": 5},
        {"compat": "tensorflow"},
    ],
)
def test_impossible_values_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(bad))):
        SamplingParams(**bad)  # type: ignore[arg-type]


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
