"""A checkpoint of random weights, for benchmarks and tests."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.sources.checkpoint import Array


@dataclass(frozen=True, slots=True)
class RandomCheckpoint:
    """Normally distributed weights, with GPT-2's initial standard deviation, 0.02.

    Gains vary about 1 and biases about 0, unlike in GPT-2, so that a lost one shows. A variable's
    values depend on `seed` and its name alone.
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
