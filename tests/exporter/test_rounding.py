"""Weights as whole numbers: how far from what they were, and in which layout."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2rt_export.onnx_graph.rounding import BLOCK, ZERO_POINT, half, int4_blocks, int8_rows
from integers import widened

Floats = NDArray[np.float32]
SHAPES = [(5, 7), (33, 64), (20, 768)]


def heavy_tailed(shape: tuple[int, int]) -> Floats:
    return np.random.default_rng(0).standard_t(3, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_rows_round_to_the_nearest_step(shape: tuple[int, int]) -> None:
    w = heavy_tailed(shape)
    w[1] = 0
    stored, scale = int8_rows(w)
    q = stored.astype(int) - ZERO_POINT
    assert (np.abs(w - q * scale[:, None]) <= 0.5001 * scale[:, None]).all()
    magnitudes = np.abs(q).max(axis=1)
    assert (magnitudes[np.arange(len(w)) != 1] == 127).all(), "each row uses the whole range"
    assert magnitudes[1] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_blocks_round_to_the_nearest_step_of_their_range(shape: tuple[int, int]) -> None:
    n, k = shape
    w = heavy_tailed(shape)
    q, scale, zero = int4_blocks(w)
    assert q.shape == (n, -(-k // BLOCK), BLOCK // 2)
    assert scale.dtype == np.float16
    error = np.pad(np.abs(widened(q, scale, zero, k) - w), ((0, 0), (0, -k % BLOCK)))
    # The zero point is a whole step, so the ends of the range may be half a step off besides, and a
    # little more where float16 rounded the scale down.
    assert (error.reshape(n, -1, BLOCK).max(axis=-1) <= 1.01 * scale).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_int4_keeps_zeros_and_whole_steps(sign: int) -> None:
    w = np.zeros((3, 3 * BLOCK), np.float32)
    w[1, BLOCK : 2 * BLOCK] = sign * (np.arange(BLOCK) % 16 - 8)
    w[2, BLOCK : 2 * BLOCK] = sign * 0.5 * (np.arange(BLOCK) % 16)
    np.testing.assert_array_equal(widened(*int4_blocks(w), w.shape[1]), w)


def test_what_float16_cannot_hold_is_infinite_without_a_warning() -> None:
    with np.errstate(over="raise"):
        found = half(np.array([1.0, 65504.0, 1e6, 1e-9], np.float32))
    np.testing.assert_array_equal(found, np.array([1, 65504, np.inf, 0], np.float16))
