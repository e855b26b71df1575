"""Figures of hand-made records, and the intervals round them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpt2rt_evals.metrics import (
    Metric,
    accuracy,
    bits,
    bleu,
    bleu_counts,
    exact_match,
    f1,
    f1_of_many,
    measure,
    normalised,
    perplexity,
    rouge,
)


def test_perplexity_and_bits_are_of_sums_not_of_means() -> None:
    records = [{"nats": math.log(8), "units": 1}, {"nats": 0.0, "units": 2}]
    words = Metric("perplexity", ("nats", "units"), perplexity)
    assert measure(words, records).value == pytest.approx(2)
    assert measure(Metric("bits", ("nats", "units"), bits), records).value == pytest.approx(1)


def test_a_perplexity_beyond_float_is_infinite() -> None:
    assert perplexity(np.array([1e6, 1.0])) == math.inf


def test_the_interval_is_that_of_the_binomial() -> None:
    """Of 400 answers, 100 right: 25 % ± 1.96 · sqrt(.25 · .75 / 400), within resampling noise."""
    records = [{"right": int(i % 4 == 0), "examples": 1} for i in range(400)]
    figure = measure(accuracy("right", "accuracy %"), records)
    half = 196 * math.sqrt(0.25 * 0.75 / 400)
    assert figure.value == 25
    assert figure.low == pytest.approx(25 - half, abs=0.5)
    assert figure.high == pytest.approx(25 + half, abs=0.5)
    assert figure == measure(accuracy("right", "accuracy %"), records)


def test_without_spread_the_interval_is_a_point() -> None:
    figure = measure(accuracy("right", "accuracy %"), [{"right": 1, "examples": 1}] * 7)
    assert (figure.value, figure.low, figure.high) == (100, 100, 100)


def test_answers_are_compared_without_case_articles_and_punctuation() -> None:
    assert normalised(" The  U.S. an Apple-pie!") == ["us", "applepie"]
    assert exact_match("the Eiffel Tower.", ["no", "Eiffel tower"]) == 1
    assert exact_match("Eiffel", ["Eiffel Tower"]) == 0


def test_f1_by_hand() -> None:
    assert f1("the white cat", "a cat") == pytest.approx(2 * (1 / 2) * 1 / (1 / 2 + 1))
    assert f1("the", "an") == 1  # nothing is left of either
    assert f1("x", "the") == 0
    assert f1("no no no", "no") == pytest.approx(2 * (1 / 3) / (4 / 3))


def test_f1_of_many_leaves_each_reference_out() -> None:
    """Scores 1, .5 and 0: the best of the others is .5, 1, 1."""
    references = ["red cat", "cat", "dog"]
    assert [f1("red cat", r) for r in references] == pytest.approx([1, 2 / 3, 0])
    assert f1_of_many("red cat", references) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert f1_of_many("red cat", ["cat"]) == pytest.approx(2 / 3)


def test_summed_bleu_is_the_corpus_bleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    random = np.random.default_rng(3)
    words = ["the", "cat", "sat", "on", "mat", ",", "and", "it", "was", "'s", "."]
    made = [" ".join(random.choice(words, size=n)) for n in (1, 3, 8, 20, 5)]
    wanted = [" ".join(random.choice(words, size=n)) for n in (2, 4, 9, 15, 5)]
    made[2] = wanted[2]
    sums = np.sum([bleu_counts(a, b) for a, b in zip(made, wanted, strict=True)], axis=0)
    assert bleu(sums) == pytest.approx(sacrebleu.corpus_bleu(made, [wanted]).score)
    assert bleu(np.array(bleu_counts(wanted[3], wanted[3]))) == pytest.approx(100)


def test_rouge_by_hand() -> None:
    """Three of the summary's four words are among the reference's six, as one pair of two."""
    pytest.importorskip("rouge_score")
    scores = rouge(["cats sleep long", "purring"], ["a cat sleeps", "it is purring"])
    assert scores["rouge1"] == pytest.approx(2 * (3 / 4) * (3 / 6) / (3 / 4 + 3 / 6))
    assert scores["rouge2"] == pytest.approx(2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5))
    assert scores["rougeLsum"] == pytest.approx(scores["rouge1"])
    assert set(rouge(["x y"], ["z"]).values()) == {0}
