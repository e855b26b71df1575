"""Readers of hidden states: on a device, or in slots on a processor.

Either reads texts side by side, between the steps of texts in progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.runtime import Runtime
from gpt2rt.engine.slots import Part
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.client import Client
from gpt2rt.scoring.batching import BatchReader
from gpt2rt.scoring.on_device import OnDevice

if TYPE_CHECKING:
    from gpt2rt.engine.cuda.states import StateReader

T = TypeVar("T")
Vectors = NDArray[np.float32]
TOKENS = 256  # most tokens in a step on a processor; more would not be faster
SIDE_BY_SIDE = 32  # most texts in it, by default, since each takes a slot


@dataclass(frozen=True, slots=True, eq=False)
class TextPiece:
    """Tokens that are read together, whose states count from the `first` on.

    `weights` float32 [P,n] are those of the n states for P sums, 0 before the first (None: the
    states themselves are wanted).
    """

    tokens: tuple[int, ...]
    first: int
    weights: Vectors | None


class VectorReader(BatchReader, Protocol):
    """Reads pieces of texts. `sums` says whether it returns the sums, where they are wanted."""

    sums: bool

    def read(self, pieces: list[TextPiece]) -> list[Vectors]:
        """The states of each piece, float32 [n,D], or their sums, float32 [P,D]."""


@contextmanager
def reader_of(
    runtime: Runtime, shared: Batch, hparams: HParams, layer: int
) -> Iterator[VectorReader]:
    """A context with a reader of the states of a layer, between the steps of `shared`."""
    with shared.client(0) as client, runtime.state_reader() as device:
        if device is None:
            yield SlotStates(runtime, shared, client, hparams, layer)
            return
        with ThreadPoolExecutor(1) as pool:
            yield DeviceStates(device, client, pool, layer)


class DeviceStates(OnDevice):
    """A `VectorReader` on a device."""

    sums = True

    def __init__(
        self, device: StateReader, client: Client, pool: ThreadPoolExecutor, layer: int
    ) -> None:
        super().__init__(device, pool)
        self._device, self._client, self._layer = device, client, layer

    def read(self, pieces: list[TextPiece]) -> list[Vectors]:
        texts = [(piece.tokens, piece.weights) for piece in pieces]
        return self._client.call(lambda: self._device.read(texts, self._layer))


class SlotStates:
    """A `VectorReader` by slots, which are made as they are needed.

    Their steps are small beside texts in progress; a piece that is longer is read in several.
    """

    window = 0
    sums = False

    def __init__(
        self, runtime: Runtime, shared: Batch, client: Client, hparams: HParams, layer: int
    ) -> None:
        self.most: int | None = SIDE_BY_SIDE
        self._runtime, self._shared, self._client = runtime, shared, client
        self._n_ctx, self._layer = hparams.n_ctx, layer
        self._count, self._step = 1, runtime.hidden_step(1, layer)

    def size(self) -> int:
        if self._runtime.embeds_in_slices:
            return min(TOKENS, self._shared.slice)
        return self._n_ctx

    def width(self, length: int, longest: int) -> int:
        return length

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        return (job() for job in jobs)

    def read(self, pieces: list[TextPiece]) -> list[Vectors]:
        if len(pieces) > self._count:
            self._count = len(pieces)
            self._step = self._runtime.hidden_step(self._count, self._layer)
        if len(pieces) > 1:
            parts = [_part(slot, 0, piece.tokens) for slot, piece in enumerate(pieces)]
            ends = np.cumsum([len(piece.tokens) for piece in pieces])
            return np.split(self._states(parts), ends[:-1])
        (tokens,), found, start = [piece.tokens for piece in pieces], [], 0
        while start < len(tokens):
            part = _part(0, start, tokens[start : start + self.size()])
            found.append(self._states([part]))
            start = part.end
        return [np.concatenate(found)]

    def _states(self, parts: list[Part]) -> Vectors:
        """The states of all tokens of the parts, by a step between two of the batch."""
        return np.array(self._client.call(lambda: self._step(parts)))


def _part(slot: int, start: int, tokens: tuple[int, ...]) -> Part:
    return Part(slot, start, tokens, len(tokens))
