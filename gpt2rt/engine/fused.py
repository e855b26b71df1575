"""The fused graph on a CPU: one step over any new tokens of any slots, keys and values in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITIONS, ROWS, SLOTS, TOKENS, Interface, fused
from gpt2rt.engine.kvcache import KVCache, share
from gpt2rt.engine.session import kv_type, run_failure
from gpt2rt.engine.slots import KeysValues, Logits, Part
from gpt2rt.errors import Gpt2rtError
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    import onnxruntime as ort

    from gpt2rt.engine.forks import ForkAwareSession

MOST_TOKENS = 512  # of a call; more are read in several, which take less memory and no more time
# Without kernels attention has a score for each new token and every position of every slot.
MOST_WITHOUT_KERNELS = 2048
SHORT = 32  # tokens; a call of so many, or of one for each slot, is bound once
MOST_BINDINGS = 64

Numbers = NDArray[np.int32]


class Binding:
    """A call of a fused graph with T tokens and R wanted rows, whose arrays are bound once."""

    def __init__(
        self,
        session: ort.InferenceSession,
        graph: Interface,
        cache: KVCache,
        tokens: int,
        logits: Logits,
    ) -> None:
        self._session, self._logits = session, logits
        sizes = {"T": tokens, "R": len(logits)}
        inputs = {port.name: np.zeros(port.sized(sizes), port.dtype) for port in graph.arguments}
        self._inputs = inputs
        self._cache = cache  # ONNX Runtime uses all this memory but does not keep it alive
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, share(array))
        (result,) = graph.results
        self._binding.bind_ortvalue_output(result.name, share(logits))
        for past, present, values in zip(graph.past, graph.present, cache.layers, strict=True):
            for before, after, value in zip(past, present, values, strict=True):
                self._binding.bind_ortvalue_input(before.name, value)
                self._binding.bind_ortvalue_output(after.name, value)

    def run(self, tokens: Numbers, slots: Numbers, positions: Numbers, rows: Numbers) -> Logits:
        """Run the graph; returns `logits`, which the next run overwrites. Raises `BadBundle`."""
        for port, numbers in (
            (TOKENS, tokens),
            (SLOTS, slots),
            (POSITIONS, positions),
            (ROWS, rows),
        ):
            self._inputs[port.name][:] = numbers
        try:
            self._session.run_with_iobinding(self._binding)
        except Gpt2rtError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise run_failure(error) from error
        return self._logits


class FusedSlots:
    """Slots (see `gpt2rt.engine.slots`) of the fused graph over one `KVCache`."""

    def __init__(self, session: ForkAwareSession, hparams: HParams, count: int) -> None:
        self.count = count
        self._session = session
        kv = kv_type(session)
        self._graph = fused(hparams, kv)
        self._cache = KVCache(hparams, count, hparams.n_ctx, kv)
        self._most = MOST_TOKENS
        if not session.kernels:
            self._most = max(1, min(MOST_TOKENS, MOST_WITHOUT_KERNELS // count))
        self._logits = np.empty((0, hparams.n_vocab), np.float32)
        self._bindings: dict[tuple[int, int], Binding] = {}

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        tokens, slots, positions, wanted = _flat(parts)
        rows = int(np.count_nonzero(wanted))
        logits = self._room(rows)
        done = 0
        for start in range(0, len(tokens), self._most):
            piece = slice(start, start + self._most)
            asked = np.flatnonzero(wanted[piece]).astype(np.int32)
            into = logits[done : done + len(asked)]
            call = self._call(len(tokens[piece]), into, whole=len(asked) == rows)
            call.run(tokens[piece], slots[piece], positions[piece], asked)
            done += len(asked)
        return logits

    def _room(self, rows: int) -> Logits:
        """Memory for the logits of a step, which all steps share."""
        if len(self._logits) < rows:
            self._bindings.clear()
            self._logits = np.empty((rows, self._logits.shape[1]), np.float32)
        return self._logits[:rows]

    def _call(self, tokens: int, logits: Logits, whole: bool) -> Binding:
        """A call of so many tokens; one kept from before if it is short and starts at row 0."""
        shape = tokens, len(logits)
        kept = whole and tokens <= max(SHORT, self.count)
        call = self._bindings.get(shape) if kept else None
        if call is None:
            call = Binding(self._session, self._graph, self._cache, tokens, logits)
            if kept:
                if len(self._bindings) >= MOST_BINDINGS:
                    self._bindings.clear()
                self._bindings[shape] = call
        return call

    def copy(self, source: int, target: int, length: int) -> None:
        self._cache.copy(source, target, length)

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        return self._cache.read(slot, start, end)

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        self._cache.write(slot, start, kv)


def _flat(parts: Sequence[Part]) -> tuple[Numbers, Numbers, Numbers, NDArray[np.bool_]]:
    """The tokens of all parts: for each its slot, its position, and whether logits are wanted."""
    lengths = [len(part.tokens) for part in parts]
    tokens = np.concatenate([np.asarray(part.tokens, np.int32) for part in parts])
    slots = np.repeat(np.array([part.slot for part in parts], np.int32), lengths)
    positions, wanted = [], []
    for part, length in zip(parts, lengths, strict=True):
        positions.append(np.arange(part.start, part.start + length, dtype=np.int32))
        wanted.append(np.arange(length, 0, -1) <= part.wanted)
    return tokens, slots, np.concatenate(positions), np.concatenate(wanted)
