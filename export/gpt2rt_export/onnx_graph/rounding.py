"""Quantises float weights to integers and scales: a pure function for each format."""

from __future__ import annotations

import numpy as np

from gpt2rt_export.onnx_graph.weights import Array

BLOCK = 32  # int4 weights that share a scale


ZERO_POINT = 128  # of 8-bit numbers


def int8_rows(w: Array) -> tuple[Array, Array]:  # [N,K] -> uint8 [N,K], float32 [N]
    """Symmetric 8-bit weights, -127 to 127 plus `ZERO_POINT`, with a scale for each row.

    They are stored without a sign since x86 multiplies unsigned by signed bytes.
    """
    magnitude = np.abs(w).max(axis=1)
    scale = np.maximum(magnitude / np.float32(127), np.finfo(np.float32).tiny)
    steps = np.rint(w / scale[:, None]) + ZERO_POINT
    return steps.astype(np.uint8), scale.astype(np.float32)


# Kernels read weights in groups of 16 rows: the first `QUAD` numbers of each, then the next ones.
GROUP, QUAD, PADDED = 16, 4, 64


def int8_groups(w: Array) -> tuple[Array, Array]:
    """8-bit weights as kernels read them: [N,K] -> uint8 [N/16,K/4,16,4], float32 [N].

    N is padded to a multiple of 16 and K of 64, with `ZERO_POINT`, which stands for zero.
    """
    q, scale = int8_rows(w)
    padded = np.pad(q, ((0, 0), (0, -q.shape[1] % PADDED)), constant_values=ZERO_POINT)
    return _grouped(padded.reshape(len(q), -1, QUAD), ZERO_POINT), scale


def int4_groups(w: Array) -> tuple[Array, Array, Array]:
    """4-bit weights as kernels read them: `int4_blocks`, with N padded to a multiple of 16.

    [N,K] -> uint8 [N/16,B,4,16,4], float16 [N/16,B,16], uint8 [N/16,B/2,16].
    """
    q, scale, zero = int4_blocks(w)
    fours = _grouped(q.reshape(len(q), -1, QUAD))
    fours = fours.reshape(len(fours), -1, BLOCK // 2 // QUAD, GROUP, QUAD)
    return fours, _grouped(scale[..., None])[..., 0], _grouped(zero[..., None])[..., 0]


def _grouped(rows: Array, padding: int = 0) -> Array:  # [N,C,W] -> [N/16,C,16,W]
    n, count, width = rows.shape
    padded = np.pad(rows, ((0, -n % GROUP), (0, 0), (0, 0)), constant_values=padding)
    groups = padded.reshape(-1, GROUP, count, width)
    return np.ascontiguousarray(groups.transpose(0, 2, 1, 3))


def int4_blocks(w: Array) -> tuple[Array, Array, Array]:
    """4-bit weights with a scale and a zero point for every `BLOCK` of a row.

    [N,K] -> uint8 [N,B,16], float16 [N,B], uint8 [N,B/2], as `MatMulNBits` reads them: B is K over
    BLOCK, rounded up; a byte holds two neighbours, the first in its low half. The 16 steps reach
    from the block's least weight, or 0, to its largest, or 0; zeros stay zeros. Steps are counted
    with the scale as it is stored.
    """
    n, k = w.shape
    blocks = np.pad(w, ((0, 0), (0, -k % BLOCK))).reshape(n, -1, BLOCK)
    least = np.minimum(blocks.min(-1, keepdims=True), 0)
    most = np.maximum(blocks.max(-1, keepdims=True), 0)
    scale = half(np.maximum((most - least) / 15, np.finfo(np.float16).smallest_subnormal))
    wide = scale.astype(np.float32)
    zero = np.clip(np.rint(-least / wide), 0, 15)
    steps = np.clip(np.rint(blocks / wide) + zero, 0, 15).astype(np.uint8)
    zeros = zero[..., 0].astype(np.uint8)
    zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return _pairs(steps), scale[..., 0], _pairs(zeros)


def _pairs(steps: Array) -> Array:  # [...,2n] below 16 -> [...,n]
    packed: Array = steps[..., 0::2] | steps[..., 1::2] << 4
    return packed


def half(w: Array) -> Array:  # float32 -> float16
    """Rounded to the nearest; values beyond 65,504 become infinite, for which `attach` raises."""
    with np.errstate(over="ignore"):
        return w.astype(np.float16)
