"""What integer weights stand for, by the documentation of their formats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def ungrouped(part: NDArray[Any], rows: int) -> NDArray[Any]:
    """[N/16,C,16,W] -> [N,C,W]: groups of 16 rows one after the other."""
    _, count, _, width = part.shape
    return part.swapaxes(1, 2).reshape(-1, count, width)[:rows]


def widened(q: Bytes, scale: Floats, zero: Bytes, k: int) -> Floats:
    """What `MatMulNBits` is documented to make of its weights: [N,K]."""
    steps = halves(q) - halves(zero)[:, : q.shape[1], None]
    return np.asarray((steps * scale[..., None].astype(np.float32)).reshape(len(q), -1)[:, :k])


def halves(values: Bytes) -> Floats:
    pairs = np.stack([values & 15, values >> 4], axis=-1).astype(np.float32)
    return pairs.reshape(*values.shape[:-1], -1)
