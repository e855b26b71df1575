"""The largest of many values are those that sorting finds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2rt.sampling.largest import GROUP, SPREAD, kth_largest, largest

Values = NDArray[np.float32]
RANDOM = np.random.default_rng(0)


def some(kind: str, n: int) -> Values:
    values = RANDOM.normal(0, 3, n).astype(np.float32)
    if kind == "ascending":
        values = np.sort(values)
    if kind == "ties":
        values = np.round(values)
    if kind == "ruled out":
        values[RANDOM.random(n) < 0.99] = -np.inf
    if kind == "all the same":
        values[:] = values[0]
    if kind == "in one group":  # every 64th, so that they share the maxima of few groups
        values[::64] += 100
    return values


KINDS = ["random", "ascending", "ties", "ruled out", "all the same", "in one group"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 50, 1000, 1001, 50257])
def test_they_are_those_of_a_sort_with_the_lower_of_equals_first(kind: str, n: int) -> None:
    values = some(kind, n)
    order = np.lexsort((np.arange(n), -values))
    for k in {1, 2, 40, n // (SPREAD * GROUP), n // SPREAD, n // SPREAD + 1, n - 1, n}:
        if 1 <= k <= n:
            assert kth_largest(values, k) == values[order[k - 1]]
            np.testing.assert_array_equal(largest(values, k), order[:k])


def test_a_row_of_several_and_float64_will_do() -> None:
    values = RANDOM.normal(size=(3, 5000))
    np.testing.assert_array_equal(largest(values[1], 9), np.argsort(-values[1])[:9])
    np.testing.assert_array_equal(largest(values[:, 1], 3), np.argsort(-values[:, 1]))


def test_there_may_be_none_and_fewer_than_wanted() -> None:
    assert largest(np.zeros(4, np.float32), 0).tolist() == []
    assert largest(np.array([1, 3, 2], np.float32), 9).tolist() == [1, 2, 0]
    assert largest(np.empty(0, np.float32), 3).tolist() == []
