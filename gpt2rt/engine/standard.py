"""The standard graph: plain ONNX, which copies the combined past at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import X, past, standard
from gpt2rt.engine.session import run
from gpt2rt.engine.slots import KeysValues, Logits, Part, Slots
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    import onnxruntime as ort


class StandardSlots(Slots):
    """Slots (see `gpt2rt.engine.slots`) of the standard graph; a step is a call a part."""

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        self.count = count
        self._session = session
        self._past = past(hparams).name
        self._outputs = [port.name for port in standard(hparams).outputs]
        none: NDArray[np.float32] = np.zeros(hparams.past_shape(1, 0), np.float32)
        self._pasts = [none] * count

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        return np.concatenate([self._read(part) for part in parts])

    def _read(self, part: Part) -> Logits:
        feeds = {
            X.name: np.asarray([part.tokens], np.int32),
            self._past: self._pasts[part.slot][..., : part.start, :],
        }
        logits, self._pasts[part.slot] = run(self._session, self._outputs, feeds)
        return np.asarray(logits[0, len(part.tokens) - part.wanted :], np.float32)

    def copy(self, source: int, target: int, length: int) -> None:
        self._pasts[target] = self._pasts[source][..., :length, :]

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        return self._pasts[slot][0, ..., start:end, :].copy()

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        before = self._pasts[slot][..., :start, :]
        self._pasts[slot] = np.concatenate([before, kv[None]], axis=-2)
