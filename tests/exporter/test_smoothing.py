"""Smoothing: another rounding of the same model, in which outliers cost nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow")

from gpt2rt import HParams
from gpt2rt_export.onnx_graph.rounding import ZERO_POINT, int4_blocks, int8_rows
from gpt2rt_export.smoothing import balance, smoothed
from gpt2rt_export.sources import Checkpoint, RandomCheckpoint, WrappedCheckpoint
from gpt2rt_export.verify import reference
from integers import widened
from models import TINY, LargerWeights
from outliers import WithOutliers

Floats = NDArray[np.float32]
SHAPES = [TINY, replace(TINY, activation="relu", n_inner=40, tied=False)]
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("hparams", SHAPES)
def test_the_model_is_the_same_to_the_bit(hparams: HParams) -> None:
    for whole in (LargerWeights(hparams, 1), WithOutliers(LargerWeights(hparams, 1))):
        for wanted, found in zip(results(whole), results(smoothed(whole)), strict=True):
            np.testing.assert_array_equal(found, wanted)


def results(checkpoint: Checkpoint) -> list[Floats]:
    """TensorFlow's hidden states of every layer, and logits."""
    states: list[Floats] = []
    read = reference.read(checkpoint, TOKENS, lambda _, x: states.append(x))
    return [*states, read.logits()]


def test_how_a_norm_and_its_matrix_share_a_channel_leaves_no_trace() -> None:
    plain = LargerWeights(TINY, 2)
    wanted, found = smoothed(plain), smoothed(WithOutliers(plain))
    for name in TINY.variables():
        np.testing.assert_array_equal(found.read(name), wanted.read(name), name)


def rounded(x: Floats) -> Floats:
    """Every row in 255 steps, as the kernels round activations."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    return np.asarray(np.rint(x / scale) * scale, np.float32)


def int8(w: Floats) -> Floats:
    q, scale = int8_rows(w)
    return np.asarray((q.astype(np.float32) - ZERO_POINT) * scale[:, None])


def int4(w: Floats) -> Floats:
    return widened(*int4_blocks(w), w.shape[1])


@pytest.mark.parametrize("outliers", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "in x alone"])
@pytest.mark.parametrize("quantise", [int8, int4])
def test_products_are_rounded_no_worse_and_with_outliers_much_better(
    quantise: Callable[[Floats], Floats], shared: bool, outliers: float
) -> None:
    """Outliers that the weights make up for (`shared`), or that are what the model is about."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 96)).astype(np.float32)
    w = rng.standard_normal((80, 96)).astype(np.float32) * np.float32(0.02)
    x[:, 7::30] *= outliers
    if shared:
        w[:, 7::30] /= outliers
    exact = x @ w.T
    factors = balance(x, w.T)
    plain = np.abs(rounded(x) @ quantise(w).T - exact).mean()
    smooth = np.abs(rounded(x / factors) @ quantise(w * factors).T - exact).mean()
    assert smooth <= (1.02 if outliers == 1 else 0.6) * plain


def test_channels_of_zeros_and_of_no_numbers_stay_as_they_are() -> None:
    x = np.ones((4, 6), np.float32)
    w = np.full((6, 5), 0.25, np.float32)
    x[:, 1] = w[2] = 0
    x[2, 3] = np.nan
    w[4, 4] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(balance(x, w), [2, 1, 1, 1, 1, 2])
    tiny, huge = np.full((1, 1), 1e-19, np.float32), np.full((1, 1), 1e19, np.float32)
    for a, b in ((tiny, huge), (huge, tiny)):
        factor = balance(a, b)
        assert np.isfinite([a / factor, b * factor]).all()


def test_a_damaged_checkpoint_is_smoothed_to_a_damaged_one() -> None:
    """So that writing its weights names what is wrong."""

    class Damaged(WrappedCheckpoint):
        def read(self, name: str) -> Floats:
            values = self.whole.read(name)
            return values * np.float32("nan") if name == "model/h0/mlp/c_fc/w" else values

    whole = smoothed(Damaged(RandomCheckpoint(TINY, 3)))
    bad = [name for name in TINY.variables() if not np.isfinite(whole.read(name)).all()]
    assert bad == ["model/h0/mlp/c_fc/w"]
