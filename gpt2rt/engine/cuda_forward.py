"""A call of the CUDA graph, after which logits lie on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import OFFSET, TOTAL, Port, centred, cuda
from gpt2rt.engine.cuda_call import Call
from gpt2rt.engine.cuda_memory import Array, Block, Memory, Move, size_of
from gpt2rt.engine.cuda_scores import Ids, Indices, Scores
from gpt2rt.engine.cuda_tails import Tail, Tails, width_for
from gpt2rt.engine.slots import Columns, Logits
from gpt2rt.sampling.selection import Draw


class Forward:
    """A call of the CUDA graph with fixed shapes, and the tails that read its logits."""

    def __init__(
        self,
        call: Call,
        hparams: HParams,
        memory: Memory,
        tails: Tails,
        cache: Mapping[str, int],
        total: int,
        blocks: Mapping[str, Block] | None = None,
    ) -> None:
        """`cache` maps the names of keys and values to addresses on the device.

        No sequence has more positions than `total`, which a captured CUDA graph keeps. `blocks` is
        memory for the results, by their names (None: it gets its own).
        """
        graph = cuda(hparams)
        self.call, self.rows = call, call.sizes["R"]
        self._memory, self._tails = memory, tails
        self._made: dict[tuple[str, int], Tail] = {}
        self._scores: dict[int, Scores] = {}
        sent = [port for port in graph.arguments if port is not TOTAL]
        self._sent = call.frame(sent)
        for port in sent:
            call.read(port, self._sent.addresses[port.name])
        call.read_host(TOTAL, np.array(total, np.int32))
        self._logits, self._results = centred(hparams), graph.results
        self._blocks = blocks or {
            port.name: memory.allocate(size_of(port, call.sizes)) for port in graph.results
        }
        for port in graph.results:
            call.write(port, self._blocks[port.name].address)
        call.in_place(graph, cache)

    @property
    def addresses(self) -> dict[str, int]:
        """Where the results lie on the device, by their names."""
        return {port.name: self._blocks[port.name].address for port in self._results}

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays of the inputs on the host, to be written before `run`."""
        return self._sent.arrays

    def run(self) -> None:
        """Run the graph. Raises `OutOfMemory`, `BadBundle`."""
        self._sent.send()
        self.call.run()

    def choose(self, rows: Sequence[int], draws: Sequence[Draw]) -> Array:
        """The tokens that the device chooses for some rows, int64 [n]; -1 where it cannot tell."""
        tail = self._tail(self._tails.kind_for(draws), width_for(draws))
        chosen = tail.choose(rows, draws)
        left = [n for n, draw in enumerate(draws) if draw.tries and chosen[n] < 0]
        if left:
            wide = self._tail("wide", 0)
            chosen[left] = wide.choose([rows[n] for n in left], [draws[n] for n in left])
        return chosen

    def _tail(self, kind: str, width: int) -> Tail:
        if (kind, width) not in self._made:
            made = self._tails.tail(kind, width, self.addresses, self.rows)
            self._made[kind, width] = made
        tail = self._made[kind, width]
        if self.call.graph is not None:
            tail.capture()
        return tail

    def score(self, rows: Indices, targets: Indices, top: int, group: Ids | None) -> Columns:
        """The scores of a target in each of some rows. Raises `BadLogits`."""
        members, made = self._tails.group(group), self._scores.get(top)
        if made is None or made.members is not members:
            address = self.addresses[self._logits.name]
            made = self._scores[top] = self._tails.scores(address, self.rows, top, members)
        return made.score(rows, targets, top)

    def logits(self, first: int = 0, count: int | None = None) -> Logits:
        """The logits of rows, float32 [count, n_vocab], copied to the host; None: to the last."""
        count = self.rows - first if count is None else count
        centred, offset = (self._fetched(p, first, count) for p in (self._logits, OFFSET))
        logits: Logits = centred.astype(np.float32)
        logits -= offset
        return logits

    def _fetched(self, port: Port, first: int, count: int) -> Array:
        array = np.empty(port.sized({"R": count}), port.dtype)
        start = size_of(port, {"R": first})
        size, source = array.nbytes, self._blocks[port.name].address + start
        if size:
            self._memory.copy(Move(array.ctypes.data, size, source, size, size, 1))
        return array
