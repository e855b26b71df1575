"""The fused graph on a CPU, which appends keys and values in place and allocates little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITION, ROWS, SEQLENS, TOTAL, X, fused
from gpt2rt.engine.kvcache import KVCache, share
from gpt2rt.engine.session import run_failure
from gpt2rt.engine.slots import KeysValues, Logits, Part
from gpt2rt.errors import Gpt2rtError
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    import onnxruntime as ort

# Positions per call in the prefill of a long prompt: less memory and time than in a single call. A
# multiple of the 128 rows in a block of flash attention, so that results are the same bits.
PIECE = 256
CACHED_BINDINGS = 32  # most bindings, and most tokens of each, of short calls for a slot


class Binding:
    """A call of the fused graph with fixed shapes, whose arrays are bound once."""

    def __init__(
        self,
        session: ort.InferenceSession,
        hparams: HParams,
        cache: list[tuple[ort.OrtValue, ort.OrtValue]],
        shape: tuple[int, int],
        rows: int,
        logits: Logits | None = None,
    ) -> None:
        self._session = session
        graph = fused(hparams)
        sizes = {"B": shape[0], "S": shape[1], "R": rows}
        arrays = {port: np.zeros(port.sized(sizes), port.dtype) for port in graph.arguments}
        self.X, self.position = arrays[X], arrays[POSITION]
        self.seqlens, self.total = arrays[SEQLENS], arrays[TOTAL]
        self.rows = arrays[ROWS]
        self.rows[:] = np.arange(rows)
        self.logits = np.empty((rows, hparams.n_vocab), np.float32) if logits is None else logits
        self._buffers = (arrays, cache)  # ONNX Runtime uses this memory but does not keep it alive
        self._binding = session.io_binding()
        for port, array in arrays.items():
            self._binding.bind_ortvalue_input(port.name, share(array))
        (result,) = graph.results
        self._binding.bind_ortvalue_output(result.name, share(self.logits))
        for past, present, values in zip(graph.past, graph.present, cache, strict=True):
            for before, after, value in zip(past, present, values, strict=True):
                self._binding.bind_ortvalue_input(before.name, value)
                self._binding.bind_ortvalue_output(after.name, value)

    def run(self) -> Logits:
        """Run the graph; returns `logits`, which the next run overwrites. Raises `BadBundle`."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Gpt2rtError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise run_failure(error) from error
        return self.logits


class FusedSlots:
    """Slots (see `gpt2rt.engine.slots`) of the fused graph over one `KVCache`."""

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        self.count = count
        self._hparams = hparams
        self._session = session
        self._cache = KVCache(hparams, count, hparams.n_ctx)
        self._steps: dict[int, Binding] = {}
        self._reads: dict[tuple[int, int], Binding] = {}
        self._logits = np.empty((0, hparams.n_vocab), np.float32)  # of `forward`

    def _bind(
        self, first: int, shape: tuple[int, int], rows: int, logits: Logits | None = None
    ) -> Binding:
        views = self._cache.views(first, shape[0])
        return Binding(self._session, self._hparams, views, shape, rows, logits)

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        if rows is None:
            while len(tokens) > PIECE + 1:  # the last piece may have one token more
                self.extend(slot, length, tokens[:PIECE], ())
                length, tokens = length + PIECE, tokens[PIECE:]
        wanted = [len(tokens) - 1] if rows is None else rows
        call = self._reading(slot, len(tokens), len(wanted))
        call.X[0] = tokens
        call.position[0] = np.arange(length, length + len(tokens))
        call.rows[:] = wanted
        call.seqlens[:] = length + len(tokens) - 1
        call.total[...] = length + len(tokens)
        return call.run()

    def _reading(self, slot: int, length: int, rows: int) -> Binding:
        """A call with `length` tokens for one slot; cached if short and all rows are wanted."""
        if rows < length or length > CACHED_BINDINGS:
            return self._bind(slot, (1, length), rows)
        call = self._reads.get((slot, length))
        if call is None:
            if len(self._reads) >= CACHED_BINDINGS:
                self._reads.clear()
            call = self._reads[slot, length] = self._bind(slot, (1, length), rows)
        return call

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits:
        batch = len(tokens)
        call = self._steps.get(batch)
        if call is None:
            call = self._steps[batch] = self._bind(0, (batch, 1), batch)
        call.X[:, 0] = tokens
        call.position[:, 0] = lengths
        call.seqlens[:] = lengths
        call.total[...] = max(lengths) + 1
        return call.run()

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        end = length + tokens.shape[1]
        if len(self._logits) < len(rows):
            self._logits = np.empty((len(rows), self._hparams.n_vocab), np.float32)
        call = self._bind(0, tokens.shape, len(rows), self._logits[: len(rows)])
        call.X[:] = tokens
        call.position[:] = np.arange(length, end)
        call.rows[:] = rows
        call.seqlens[:] = end - 1
        call.total[...] = end
        return call.run()

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        # Temporary, until the graph takes flat tokens: a call a part, or one decode step.
        order = sorted(range(len(parts)), key=lambda number: parts[number].slot)
        ordered = [parts[number] for number in order]
        if [(p.slot, len(p.tokens), p.wanted) for p in ordered] == [
            (slot, 1, 1) for slot in range(len(parts))
        ]:
            rows = self.advance([p.start for p in ordered], [p.tokens[0] for p in ordered], draws)
            return rows if order == list(range(len(parts))) else rows[np.argsort(order)]
        return np.concatenate([self._one(part) for part in parts])

    def _one(self, part: Part) -> Logits:
        count = len(part.tokens)
        if count == part.wanted == 1:
            return self.extend(part.slot, part.start, part.tokens).copy()
        asked = min(count, max(2, part.wanted)) if part.wanted else 0
        logits = self.extend(part.slot, part.start, part.tokens, range(count - asked, count))
        return logits[asked - part.wanted :].copy()

    def copy(self, source: int, target: int, length: int) -> None:
        self._cache.copy(source, target, length)

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        return self._cache.read(slot, start, end)

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        self._cache.write(slot, start, kv)


class RowwiseSlots(FusedSlots):
    """Slots for a precision whose kernel for one row sums in another order than that for several.

    Each row of a decode step is a call of its own, so that its bits do not depend on the batch.
    """

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        super().__init__(session, hparams, count)
        self._rows = np.empty((count, hparams.n_vocab), np.float32)
        self._singles: dict[int, Binding] = {}

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits:
        for slot, (length, token) in enumerate(zip(lengths, tokens, strict=True)):
            call = self._singles.get(slot)
            if call is None:
                logits = self._rows[slot : slot + 1]
                call = self._singles[slot] = self._bind(slot, (1, 1), 1, logits)
            call.X[:], call.position[:], call.seqlens[:] = token, length, length
            call.total[...] = length + 1
            call.run()
        return self._rows[: len(tokens)]
