"""Keys and values of every slot, in buffers that ONNX Runtime reads as past and writes as present.

One buffer of keys and one of values a layer, `[slots, n_head, capacity, kv_width]` float32. A
slot is a row, so a run of slots is a contiguous view and nothing is ever copied to form a batch.
"""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import Gpt2rtError

if TYPE_CHECKING:
    import onnxruntime as ort


def share(array: NDArray[Any]) -> ort.OrtValue:
    """`array` as ONNX Runtime sees it: the same memory, which the caller keeps alive."""
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array)


def untouched(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros that take memory only where something is written.

    NumPy asks for huge pages; one position in each head would then fill 2 MB with zeros: a first
    prefill of 64 tokens took four times as long (bench/RESULTS.md).
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    try:
        if hasattr(mmap, "MAP_PRIVATE"):
            memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            memory = mmap.mmap(-1, size)
    except OSError as error:
        raise Gpt2rtError(
            f"no room for the keys and values of {shape[0]} sequences ({error.strerror}); "
            "generate fewer side by side"
        ) from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


class KVCache:
    """Buffers for `slots` sequences of up to `capacity` positions each."""

    def __init__(self, hparams: HParams, slots: int, capacity: int) -> None:
        shape = (slots, hparams.n_head, capacity, hparams.kv_width)
        self._layers = [(untouched(shape), untouched(shape)) for _ in range(hparams.n_layer)]

    def views(self, first: int, count: int) -> list[tuple[ort.OrtValue, ort.OrtValue]]:
        """Keys and values of `count` slots from `first` on, a pair a layer, sharing this memory."""
        rows = slice(first, first + count)
        return [(share(keys[rows]), share(values[rows])) for keys, values in self._layers]

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of slot `source` over those of slot `target`."""
        for buffers in self._layers:
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def read(self, slot: int, start: int, end: int) -> NDArray[np.float32]:
        """A copy of positions `start` to `end` of a slot: [n_layer, 2, n_head, n, kv_width]."""
        return np.stack(
            [np.stack([buffer[slot, :, start:end] for buffer in pair]) for pair in self._layers]
        )

    def write(self, slot: int, start: int, kv: NDArray[np.float32]) -> None:
        """Put what `read` gave at the positions of `slot` from `start` on."""
        end = start + kv.shape[-2]
        for pair, layer in zip(self._layers, kv, strict=True):
            for buffer, values in zip(pair, layer, strict=True):
                buffer[slot, :, start:end] = values
