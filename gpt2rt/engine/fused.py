"""The fused graph on a CPU: one step over any new tokens of any slots, keys and values in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITIONS, ROWS, SLOTS, TOKENS, Port, fused
from gpt2rt.bundles.interface import logits as logits_of
from gpt2rt.engine.kvcache import KVCache, share
from gpt2rt.engine.session import kv_type, run_failure
from gpt2rt.engine.slots import KeysValues, Logits, Part, Slots
from gpt2rt.errors import Gpt2rtError
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    from gpt2rt.engine.forks import ForkAwareSession

MOST_TOKENS = 512  # of a call; more are read in several, which take less memory and no more time
# Without kernels attention has a score for each new token and every position of every slot.
MOST_WITHOUT_KERNELS = 2048

ARGUMENTS = (TOKENS, SLOTS, POSITIONS, ROWS)
Numbers = NDArray[np.int32]


class FusedSlots(Slots):
    """Slots (see `gpt2rt.engine.slots`) of the fused graph over one `KVCache`."""

    def __init__(
        self,
        session: ForkAwareSession,
        hparams: HParams,
        count: int,
        result: Port | None = None,
    ) -> None:
        """`result` is what a step returns of the wanted tokens, float32 [R, n]; None: logits."""
        self.count = count
        self._session = session
        kv = kv_type(session)
        graph = fused(hparams, kv)
        self._result = result or logits_of(hparams)
        self._cache = KVCache(hparams, count, hparams.n_ctx, kv)
        self._most = MOST_TOKENS
        if not session.kernels:
            self._most = max(1, min(MOST_TOKENS, MOST_WITHOUT_KERNELS // count))
        self._logits = np.empty(self._result.sized({"R": 0, "T": 0}), np.float32)
        self._inputs: dict[str, Numbers] = {}  # bound, as the keys and values are
        self._binding = session.io_binding()
        for past, present, values in zip(
            graph.past, graph.present, self._cache.layers, strict=True
        ):
            for before, after, value in zip(past, present, values, strict=True):
                self._binding.bind_ortvalue_input(before.name, value)
                self._binding.bind_ortvalue_output(after.name, value)

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        tokens, slots, positions, wanted = _flat(parts)
        logits = self._room(int(np.count_nonzero(wanted)))
        done = 0
        for start in range(0, len(tokens), self._most):
            piece = slice(start, start + self._most)
            rows = np.flatnonzero(wanted[piece]).astype(np.int32)
            into = logits[done : done + len(rows)]
            self._run(tokens[piece], slots[piece], positions[piece], rows, into)
            done += len(rows)
        return logits

    def _room(self, rows: int) -> Logits:
        """Memory for the logits of a step, which all steps share."""
        if len(self._logits) < rows:
            self._logits = np.empty((rows, self._logits.shape[1]), np.float32)
        return self._logits[:rows]

    def _run(
        self, tokens: Numbers, slots: Numbers, positions: Numbers, rows: Numbers, logits: Logits
    ) -> None:
        """Run the graph, which writes the logits of `rows` to `logits`. Raises `BadBundle`."""
        for port, numbers in zip(ARGUMENTS, (tokens, slots, positions, rows), strict=True):
            bound = self._inputs.get(port.name)
            if bound is None or len(bound) != len(numbers):
                bound = self._inputs[port.name] = numbers.copy()
                self._binding.bind_ortvalue_input(port.name, share(bound))
            bound[:] = numbers
        self._binding.bind_ortvalue_output(self._result.name, share(logits))
        try:
            self._session.run_with_iobinding(self._binding)
        except Gpt2rtError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise run_failure(error) from error

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
