"""Readers of passages: on a device, or in slots on a processor, where their logits are reduced.

Either reads passages side by side, between the steps of texts in progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.slots import Columns, Logits, Part, Slots
from gpt2rt.errors import BadLogits
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.client import Client
from gpt2rt.sampling.largest import largest
from gpt2rt.scoring.batching import BatchReader
from gpt2rt.scoring.on_device import OnDevice
from gpt2rt.scoring.scoring import Passage

if TYPE_CHECKING:
    from gpt2rt.engine.cuda.passages import PassageReader

TOKENS = 256  # most tokens in a step on a processor; more would not be faster
LOGITS = 64 << 20  # most bytes of its logits: 333 rows of GPT-2's 50,257 tokens
SIDE_BY_SIDE = 16  # most passages in it, by default, since each takes a slot

T = TypeVar("T")
Ids = NDArray[np.int64]


class Readers(Protocol):
    """Where passages are read (see `gpt2rt.engine.runtime`)."""

    def slots(self, count: int) -> Slots:
        """Slots for `count` sequences."""

    def passage_reader(self) -> AbstractContextManager[PassageReader | None]:
        """A context with a reader of passages on the device; None: they are read by slots."""


@dataclass(frozen=True, slots=True)
class WantedScores:
    """What is wanted of each token: `top` alternatives, and the probability of a `group`."""

    top: int
    group: Ids | None


class ScoreReader(BatchReader, Protocol):
    """Reads batches of passages and scores their tokens."""

    def read(self, passages: list[Passage]) -> Columns:
        """The scores of the passages, one after the other. Raises `BadLogits`."""


@contextmanager
def reader_of(
    readers: Readers, shared: Batch, hparams: HParams, threads: int, wanted: WantedScores
) -> Iterator[ScoreReader]:
    """A context with a reader, which reads between the steps of `shared`.

    `threads` share the work on logits that are reduced here.
    """
    with (
        shared.client(0) as client,
        readers.passage_reader() as device,
        ThreadPoolExecutor(threads if device is None else 1) as pool,
    ):
        if device is None:
            size = _rows(hparams)
            yield SlotScores(readers.slots, shared, client, pool, threads, size, wanted)
        else:
            yield DeviceScores(device, client, pool, wanted)


def _rows(hparams: HParams) -> int:
    """The most tokens in a step, so that their logits are at most `LOGITS` bytes."""
    return max(1, min(TOKENS, LOGITS // (hparams.n_vocab * np.dtype(np.float32).itemsize)))


class DeviceScores(OnDevice):
    """A `ScoreReader` on a device."""

    def __init__(
        self, device: PassageReader, client: Client, pool: ThreadPoolExecutor, wanted: WantedScores
    ) -> None:
        super().__init__(device, pool)
        self._device, self._client, self._wanted = device, client, wanted

    def read(self, passages: list[Passage]) -> Columns:
        pairs = [(passage.tokens, passage.first) for passage in passages]
        top, group = self._wanted.top, self._wanted.group
        return self._client.call(lambda: self._device.score(pairs, top, group))


class SlotScores:
    """A `ScoreReader` by slots, which are made as they are needed.

    Their steps are small beside texts in progress; a passage that is longer is read in pieces.
    """

    window = 0

    def __init__(
        self,
        new_slots: Callable[[int], Slots],
        shared: Batch,
        client: Client,
        pool: ThreadPoolExecutor,
        threads: int,
        size: int,
        wanted: WantedScores,
    ) -> None:
        self.most: int | None = SIDE_BY_SIDE
        self._new_slots, self._slots = new_slots, new_slots(1)
        self._shared, self._client = shared, client
        self._pool, self._threads = pool, threads
        self._size, self._wanted = size, wanted

    def size(self) -> int:
        return min(self._size, self._shared.slice)

    def width(self, length: int, longest: int) -> int:
        return length

    def read(self, passages: list[Passage]) -> Columns:
        if len(passages) > self._slots.count:
            self._slots = self._new_slots(len(passages))
        found: list[Columns] = []
        start, longest = 0, max(len(passage.inputs) for passage in passages)
        while start < longest:
            count = longest if len(passages) > 1 else self.size()
            parts = [passage.part(slot, start, count) for slot, passage in enumerate(passages)]
            start += count
            found += self._step(parts, [p.targets(q) for p, q in zip(passages, parts, strict=True)])
        return Columns.joined(found, self._wanted.top)

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        return (job() for job in jobs)

    def _step(self, parts: list[Part], targets: list[tuple[int, ...]]) -> list[Columns]:
        """The scores of a step, whose rows the threads share."""
        logits = self._client.call(lambda: np.asarray(self._slots.step(parts)))
        tokens = np.concatenate([np.array(some, np.int32) for some in targets])
        size = max(1, -(-len(tokens) // self._threads))
        pieces = [slice(start, start + size) for start in range(0, max(1, len(tokens)), size)]
        top, group = self._wanted.top, self._wanted.group
        return list(
            self._pool.map(lambda piece: _reduce(logits[piece], tokens[piece], top, group), pieces)
        )


def _reduce(
    logits: Logits, targets: NDArray[np.int32], top: int, group: NDArray[np.int64] | None
) -> Columns:
    """Reduce logits [R, n_vocab] to the columns of `TokenScores`, for the tokens `targets` [R].

    It computes a row at a time, since a row fits the processor's cache and a hundred do not.
    """
    count, n_vocab = logits.shape
    logprobs, ranks = np.empty(count, np.float32), np.empty(count, np.int32)
    ids, values = np.empty((count, top), np.int32), np.empty((count, top), np.float32)
    grouped = np.full(count, np.nan, np.float32)
    powers, above = np.empty(n_vocab, np.float32), np.empty(n_vocab, bool)
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        highest = row.max()
        if not np.isfinite(highest):
            raise BadLogits("the model's logits are not finite; its weights are damaged")
        np.exp(np.subtract(row, highest, out=powers), out=powers)
        total = np.log(powers.sum()) + highest
        if group is not None:
            grouped[i] = np.log(powers[group].sum()) + highest - total
        logprobs[i] = row[target] - total
        ranks[i] = np.count_nonzero(np.greater(row, row[target], out=above))
        if top:
            ids[i] = largest(row, top)
            values[i] = row[ids[i]] - total
    return Columns(logprobs, ranks, ids, values, grouped)
