"""The standard graph: plain ONNX, whose combined past is copied at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import X, past, standard
from gpt2rt.engine.session import run
from gpt2rt.engine.slots import KeysValues, Logits
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    import onnxruntime as ort


class StandardSlots:
    """The standard graph: plain ONNX, the combined past copied at every step, a row at a time."""

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        self.count = count
        self._session = session
        self._hparams = hparams
        self._past = past(hparams).name
        self._outputs = [port.name for port in standard(hparams).outputs]
        self._pasts = [self._none(1) for _ in range(count)]

    def _none(self, batch: int) -> NDArray[np.float32]:
        return np.zeros(self._hparams.past_shape(batch, 0), np.float32)

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        wanted = [len(tokens) - 1] if rows is None else list(rows)
        feeds = {
            X.name: np.asarray([tokens], np.int32),
            self._past: self._pasts[slot][..., :length, :],
        }
        logits, self._pasts[slot] = run(self._session, self._outputs, feeds)
        return np.asarray(logits[0, wanted], np.float32)

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits:
        steps = enumerate(zip(lengths, tokens, strict=True))
        return np.concatenate([self.extend(slot, n, [token]) for slot, (n, token) in steps])

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        past = self._pasts[0][..., :length, :] if length else self._none(len(tokens))
        feeds = {X.name: tokens, self._past: past}
        logits, present = run(self._session, self._outputs, feeds)
        if len(tokens) == 1:
            self._pasts[0] = present
        return np.asarray(logits.reshape(-1, logits.shape[-1])[list(rows)], np.float32)

    def copy(self, source: int, target: int, length: int) -> None:
        self._pasts[target] = self._pasts[source][..., :length, :]

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        return self._pasts[slot][0, ..., start:end, :].copy()

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        before = self._pasts[slot][..., :start, :]
        self._pasts[slot] = np.concatenate([before, kv[None]], axis=-2)
