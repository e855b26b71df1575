"""Settings of sampling: impossible ones are refused, seeds are added and counted on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpt2rt import SamplingParams
from gpt2rt.errors import InvalidSetting


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


def test_settings_get_a_seed_only_if_they_have_none() -> None:
    assert SamplingParams(top_k=5, seed=0).seeded() == SamplingParams(top_k=5, seed=0)
    first, second = (SamplingParams(top_k=5).seeded() for _ in range(2))
    assert None not in (first.seed, second.seed)
    assert first != second
    assert replace(first, seed=None) == SamplingParams(top_k=5)


def test_the_next_seed_follows_and_the_last_is_followed_by_the_first() -> None:
    assert SamplingParams(seed=6).with_next_seed() == SamplingParams(seed=7)
    assert SamplingParams(seed=2**64 - 1).with_next_seed() == SamplingParams(seed=0)
