"""Models with channels of very different sizes, as trained GPT-2s have them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2rt_export.sources import WrappedCheckpoint


@dataclass(frozen=True, slots=True)
class WithOutliers(WrappedCheckpoint):
    """`whole`, the same function in float32: a few channels of what a block's norms give are
    `factor` times larger, and the weights that read them as much smaller.

    With a power of two as factor every result has the same bits.
    """

    factor: float = 64.0
    every: int = 13  # channels, of which one is larger

    def read(self, name: str) -> NDArray[np.float32]:
        values = self.whole.read(name)
        sizes = np.ones(self.hparams.n_embd, np.float32)
        sizes[5 :: self.every] = self.factor
        if "/ln_1/" in name or "/ln_2/" in name:
            return values * sizes
        return values / sizes[:, None] if name.endswith(("c_attn/w", "c_fc/w")) else values
