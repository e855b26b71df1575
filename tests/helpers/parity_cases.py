"""Checkpoints that differ from a bundle's in one place, and how far apart logits are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.sources import RandomCheckpoint
from gpt2rt_export.verify import agreement, parity
from gpt2rt_export.verify.parity import ParityReport
from models import LargerWeights

LAYER = 1


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint in which one variable is another."""

    whole: LargerWeights | RandomCheckpoint
    name: str
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    origin: str = "test"
    tokenizer: None = None
    files: tuple[()] = ()
    unused: tuple[()] = ()
    notes: tuple[()] = ()

    @property
    def hparams(self) -> HParams:
        return self.whole.hparams

    @property
    def identity(self) -> str:
        return f"{self.whole.identity}, damaged"

    def read(self, name: str) -> NDArray[np.float32]:
        values = self.whole.read(name)
        return self.change(values) if name == self.name else values


def measured(bundle: Bundle, weights: LargerWeights | RandomCheckpoint) -> ParityReport:
    return parity.measure(bundle.directory, weights, "fused", bundle.manifest.precision)


def compared(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> agreement.Agreement:
    return agreement.agreement_of(agreement.statistics(wanted, found, [0] * len(wanted)))
