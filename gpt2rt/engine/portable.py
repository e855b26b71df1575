"""The portable graph on any provider: it returns new keys and values, which are stored here.

Keys and values lie in ordinary memory, in buffers that grow with the longest text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import LENGTHS, POSITION, ROWS, X, portable
from gpt2rt.engine.kvcache import lazy_zeros
from gpt2rt.engine.session import run
from gpt2rt.engine.slots import KeysValues, Logits, Part, Slots
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    import onnxruntime as ort

LEAST = 128  # positions of the smallest buffers; others have twice as many, and so on


class PortableSlots(Slots):
    """Slots (see `gpt2rt.engine.slots`) of the portable graph.

    A step is a call for each run of neighbouring slots that have as many new tokens. With
    `few_shapes` numbers of tokens and rows are rounded up to powers of two, for providers that
    compile a program for every shape.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        hparams: HParams,
        count: int,
        few_shapes: bool = False,
    ) -> None:
        self.count = count
        self._session = session
        self._hparams = hparams
        self._rounded = _power_of_two if few_shapes else int
        graph = portable(hparams)
        self._results = [port.name for port in graph.outputs]
        self._pasts = [port.name for pair in graph.past for port in pair]
        self._held: list[NDArray[np.float32]] = []  # [S,H,C,W]: keys, values of layer 0, and so on
        self._capacity = 0

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        self._grow(max(part.end for part in parts))
        found: dict[int, Logits] = {}
        for together in self._calls(parts):
            found |= self._call(together)
        return np.concatenate([found[part.slot] for part in parts])

    def _calls(self, parts: Sequence[Part]) -> Iterator[list[Part]]:
        """The parts of each call: neighbouring slots, with the same rounded number of tokens."""
        together: list[Part] = []
        for part in sorted(parts, key=lambda part: part.slot):
            if together and (
                part.slot != together[-1].slot + 1 or self._size(part) != self._size(together[0])
            ):
                yield together
                together = []
            together.append(part)
        yield together

    def _size(self, part: Part) -> int:
        return self._rounded(len(part.tokens))

    def _call(self, parts: Sequence[Part]) -> dict[int, Logits]:
        """Run the graph on neighbouring slots; returns the wanted logits of each slot."""
        batch, size, first = len(parts), self._size(parts[0]), parts[0].slot
        tokens = np.zeros((batch, size), np.int32)
        wanted: list[int] = []
        for number, part in enumerate(parts):
            tokens[number, : len(part.tokens)] = part.tokens
            end = number * size + len(part.tokens)
            wanted += range(end - part.wanted, end)
        starts = np.array([[part.start] for part in parts], np.int32)
        places = np.minimum(starts + np.arange(size, dtype=np.int32), self._hparams.n_ctx - 1)
        rows = np.zeros(self._rounded(max(1, len(wanted))), np.int32)
        rows[: len(wanted)] = wanted
        feeds = {X.name: tokens, POSITION.name: places, LENGTHS.name: starts, ROWS.name: rows}
        pasts = (held[first : first + batch] for held in self._held)
        feeds |= dict(zip(self._pasts, pasts, strict=True))
        logits, *new = run(self._session, self._results, feeds)
        for number, part in enumerate(parts):
            for held, values in zip(self._held, new, strict=True):
                held[part.slot, :, part.start : part.end] = values[number, :, : len(part.tokens)]
        return self._parted(parts, logits)

    def _parted(self, parts: Sequence[Part], logits: Logits) -> dict[int, Logits]:
        """The rows of logits of each slot.

        Slots with numbers that are not finite are emptied: the graph multiplies what does not count
        by zero, which NaN survives.
        """
        found, row = {}, 0
        for part in parts:
            mine = found[part.slot] = logits[row : row + part.wanted]
            row += part.wanted
            if not np.isfinite(mine).all():
                for held in self._held:
                    held[part.slot] = 0
        return found

    def _grow(self, positions: int) -> None:
        """Make room for so many positions in every slot."""
        if positions <= self._capacity:
            return
        capacity = min(self._hparams.n_ctx, max(LEAST, _power_of_two(positions)))
        shape = (self.count, self._hparams.n_head, capacity, self._hparams.kv_width)
        before, self._held = self._held, [lazy_zeros(shape, "float32") for _ in self._pasts]
        for old, new in zip(before, self._held, strict=False):
            new[:, :, : self._capacity] = old
        self._capacity = capacity

    def copy(self, source: int, target: int, length: int) -> None:
        for held in self._held:
            held[target, :, :length] = held[source, :, :length]

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        self._grow(end)
        values = np.stack([held[slot, :, start:end] for held in self._held])
        return values.reshape(self._hparams.n_layer, 2, *values.shape[1:])

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        end = start + kv.shape[-2]
        self._grow(end)
        for held, values in zip(self._held, kv.reshape(-1, *kv.shape[2:]), strict=True):
            held[slot, :, start:end] = values


def _power_of_two(count: int) -> int:
    """`count` rounded up to a power of two."""
    return 1 << (count - 1).bit_length()
