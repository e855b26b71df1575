"""Random values in a checkpoint's shape; for benchmarks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.sources.checkpoint import Array


@dataclass(frozen=True, slots=True)
class RandomCheckpoint:
    """Random values in a checkpoint's shape.

    Matrices as at the start of GPT-2's training (deviation 0.02); gains and biases as far from 1
    and 0, so that none of them could be lost unnoticed. A variable's values are a function of
    `seed` and its name alone.
    """

    hparams: HParams
    seed: int
    origin: str = "random weights"
    tokenizer: None = None
    files: tuple[()] = ()
    unused: tuple[()] = ()
    notes: tuple[()] = ()

    @property
    def identity(self) -> str:
        return f"random weights, seed {self.seed}"

    def read(self, name: str) -> Array:
        key = np.array([self.seed, zlib.crc32(name.encode())], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        values = generator.standard_normal(self.hparams.variables()[name], np.float32)
        return values * np.float32(0.02) + np.float32(name.endswith("/g"))
