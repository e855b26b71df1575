"""Quantises float weights to integers and scales: a pure function for each format."""

from __future__ import annotations

import numpy as np

from gpt2rt_export.onnx_graph.weights import Array

BLOCK = 32  # int4 weights that share a scale


def int8_columns(w: Array) -> tuple[Array, Array]:  # [K,N] -> int8 [K,N], float32 [N]
    """Symmetric 8-bit weights with a scale per column.

    x86 without VNNI multiplies u8 by s8 with `vpmaddubsw`, which adds the products of two
    neighbours along K in 16 saturating bits. 255 * 128 still fits, so each column's scale is chosen
    to keep the magnitudes of two neighbours at 128 or less together: exact on every processor.
    """
    magnitude = np.abs(w)
    pairs = np.add.reduceat(magnitude, np.arange(0, len(w), 2), axis=0)
    scale = np.maximum(magnitude.max(axis=0) / 127, pairs.max(axis=0) / 128)
    scale = np.maximum(scale * np.float32(1 + 1e-6), np.finfo(np.float32).tiny)
    return np.rint(w / scale).astype(np.int8), scale.astype(np.float32)


def int4_blocks(w: Array) -> tuple[Array, Array, Array]:
    """4-bit weights with a scale and a zero point for every `BLOCK` of a column.

    [K,N] -> uint8 [N,B,16], float32 [N,B], uint8 [N,B/2], as `MatMulNBits` reads them: B is K over
    BLOCK, rounded up; a byte holds two neighbours, the first in its low half. The 16 steps reach
    from the block's least weight, or 0, to its largest, or 0; zeros stay zeros.
    """
    k, n = w.shape
    blocks = np.pad(w.T, ((0, 0), (0, -k % BLOCK))).reshape(n, -1, BLOCK)
    least = np.minimum(blocks.min(-1, keepdims=True), 0)
    most = np.maximum(blocks.max(-1, keepdims=True), 0)
    scale = np.maximum((most - least) / 15, np.finfo(np.float32).tiny)
    zero = np.rint(-least / scale)
    steps = np.clip(np.rint(blocks / scale) + zero, 0, 15).astype(np.uint8)
    zeros = zero[..., 0].astype(np.uint8)
    zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return _pairs(steps), scale[..., 0].astype(np.float32), _pairs(zeros)


def _pairs(steps: Array) -> Array:  # [...,2n] below 16 -> [...,n]
    packed: Array = steps[..., 0::2] | steps[..., 1::2] << 4
    return packed


def half(w: Array) -> Array:  # float32 -> float16
    """Rounded to the nearest; values beyond 65,504 become infinite, for which `attach` raises."""
    with np.errstate(over="ignore"):
        return w.astype(np.float16)
