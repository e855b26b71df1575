"""How the matrices of whole numbers lie in the page's file of weights.

A bundle has them in groups of 16 rows, as the runtime's kernels read them. WebGPU reads rows [N,K],
WebAssembly tiles [N/S,K,S] of rows that lie side by side. Where both run a model the file has
tiles, which the page makes rows of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpt2rt_export.onnx_graph.rounding import BLOCK, ZERO_POINT
from gpt2rt_export.onnx_graph.weights import Array

Sizes = tuple[int, ...]

INT8, INT4 = "/int8", "/int4"  # the ends of the names of weights
TILE = 32  # rows that lie side by side; fewer where they do not divide the matrix


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of `k` weights for each of `n` outputs, or what belongs to one: its scales, its zero
    points. `n` may be more than the bundle has: what is added stands for zero."""

    name: str
    k: int
    n: int

    @property
    def tile(self) -> int:
        return math.gcd(self.n, TILE)

    @property
    def tiles(self) -> Sizes:
        """The sizes [N/S,K,S] of its tiles; of the scales of int8 [N/S,1,S]."""
        return self.n // self.tile, self.k if self.name.endswith(INT8) else 1, self.tile

    def rows(self, stored: Array) -> Array:
        """Its rows [N,...], of what a bundle has."""
        if stored.ndim == 1:
            rows = stored[:, None]
        else:  # [N/16,...,16] or, of weights, [N/16,...,16,4]
            axis = stored.ndim - (2 if stored.ndim > 3 else 1)
            rows = np.moveaxis(stored, axis, 1)
            rows = rows.reshape(rows.shape[0] * rows.shape[1], -1)[: self.n]
        if self.name.endswith(INT8):
            rows = rows[:, : self.k]
        padding = ((0, self.n - len(rows)), (0, 0))
        stands_for_zero = ZERO_POINT if self.name.endswith(INT8) else 0
        return np.pad(rows, padding, constant_values=stands_for_zero)

    def tiled(self, stored: Array) -> Array:
        """Its tiles, of what a bundle has."""
        count, k, tile = self.tiles
        return self.rows(stored).reshape(count, tile, k).transpose(0, 2, 1)

    def blocks(self, size: int) -> Sizes:
        """The sizes of `size` stored numbers as WebGPU's product reads them."""
        each = {INT8: BLOCK, INT4: BLOCK // 2}.get(self.name[-len(INT8) :])
        return (self.n, size // self.n // each, each) if each else (self.n, size // self.n)
