"""The keys and values of all slots, in buffers that ONNX Runtime uses as past and as present.

Every layer has a buffer of keys and one of values, [slots, n_head, capacity, kv_width], of float16
or float32. Memory is taken only where something is written.
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
    """ONNX Runtime's view of `array`, whose memory the caller must keep alive."""
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array)


def lazy_zeros(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Zeros that take memory only where something is written. Raises `Gpt2rtError`.

    NumPy asks for huge pages; then the first position of a slot would fill all of it with zeros,
    and a first prefill take several times as long (bench/HISTORY.md).
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
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
    return np.frombuffer(memory, dtype).reshape(shape)


class KVCache:
    """Keys and values, of dtype `kv`, of `slots` sequences of up to `capacity` positions each.

    `layers` are ONNX Runtime's views of the keys and values of every layer.
    """

    def __init__(self, hparams: HParams, slots: int, capacity: int, kv: str) -> None:
        shape = (slots, hparams.n_head, capacity, hparams.kv_width)
        self._layers = [
            (lazy_zeros(shape, kv), lazy_zeros(shape, kv)) for _ in range(hparams.n_layer)
        ]
        self.layers = [(share(keys), share(values)) for keys, values in self._layers]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""
        for buffers in self._layers:
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def read(self, slot: int, start: int, end: int) -> NDArray[Any]:
        """A copy of the positions `start` to `end` (exclusive) of a slot.

        [n_layer, 2, n_head, end - start, kv_width].
        """
        return np.stack(
            [np.stack([buffer[slot, :, start:end] for buffer in pair]) for pair in self._layers]
        )

    def write(self, slot: int, start: int, kv: NDArray[Any]) -> None:
        """Write keys and values, shaped as from `read`, to a slot from position `start` on."""
        end = start + kv.shape[-2]
        for pair, layer in zip(self._layers, kv, strict=True):
            for buffer, values in zip(pair, layer, strict=True):
                buffer[slot, :, start:end] = values
