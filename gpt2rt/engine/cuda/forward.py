"""A call of the CUDA graph, after which logits lie on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import CHOSEN, OFFSET, TOTAL, Port, X, centred, cuda
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.memory import Array, Block, Memory, Move, size_of
from gpt2rt.engine.cuda.scores import Ids, Indices, Scores
from gpt2rt.engine.cuda.tails import Tail, Tails, width_for
from gpt2rt.engine.slots import Columns, Logits
from gpt2rt.sampling.selection import Draw

TOKEN_BYTES, CHOSEN_BYTES = (np.dtype(port.dtype).itemsize for port in (X, CHOSEN))


Fed = Sequence[tuple[int, int]]  # rows and addresses


class TokenChoice:
    """The tokens that a device chooses for some rows of a call's logits, by a draw each."""

    def __init__(self, forward: Forward, rows: Sequence[int], draws: Sequence[Draw]) -> None:
        """Have them chosen."""
        self.forward, self.rows, self._draws = forward, rows, draws
        self._tail = forward.tail_for(draws)
        self._tail.choose(rows, draws)

    @property
    def final(self) -> bool:
        """Whether no other tries may be needed, and the tokens are those on the device."""
        return not any(draw.tries for draw in self._draws)

    @property
    def addresses(self) -> list[int]:
        """Where the tokens lie on the device, as `CHOSEN` has them."""
        return [self._tail.address + CHOSEN_BYTES * row for row in self.rows]

    def wait(self) -> Array:
        """The tokens, int64 [n], when they are there; -1 where the device cannot tell."""
        chosen = self._tail.chosen(self.rows)
        left = [n for n, draw in enumerate(self._draws) if draw.tries and chosen[n] < 0]
        if left:
            wide, rows = self.forward.tail("wide", 0), [self.rows[n] for n in left]
            wide.choose(rows, [self._draws[n] for n in left])
            chosen[left] = wide.chosen(rows)
        return chosen


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
        self._n_vocab = hparams.n_vocab
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

    def run(self, fed: Fed = ()) -> None:
        """Run the graph. Raises `OutOfMemory`, `BadBundle`.

        The tokens of some rows of its inputs X [B,1] are `fed`: they are on the device already, at
        these addresses, as `CHOSEN` has them.
        """
        self._sent.send()
        if fed:
            self._memory.queue(*feeding(fed, self._sent.addresses[X.name]))
        self.call.run()

    def tail_for(self, draws: Sequence[Draw]) -> Tail:
        """The cheapest tail that can choose as all `draws` say. Raises as `Tails.tail`."""
        return self.tail(self._tails.kind_for(draws), width_for(draws))

    def tail(self, kind: str, width: int) -> Tail:
        """A tail over its logits. Raises as `Tails.tail`."""
        if (kind, width) not in self._made:
            made = self._tails.tail(kind, width, self.addresses, self.rows)
            self._made[kind, width] = made
        tail = self._made[kind, width]
        if self.call.graph is not None:
            tail.capture()
        return tail

    def score(self, rows: Indices, targets: Indices, top: int, group: Ids | None) -> Columns:
        """The scores of a target in each of some rows, with `top` alternatives, or all.

        Raises `BadLogits`.
        """
        top = min(top, self._n_vocab)
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


def feeding(fed: Fed, target: int) -> list[Move]:
    """The moves of tokens from their addresses to their rows, which lie at `target`.

    Of a token's bytes the lower ones are taken, which come first. Neighbours that come from
    neighbours are one move.
    """
    runs: list[list[int]] = []  # the first row, its address, how many
    for row, address in sorted(fed):
        if runs:
            first, source, count = runs[-1]
            if (row, address) == (first + count, source + CHOSEN_BYTES * count):
                runs[-1][2] += 1
                continue
        runs.append([row, address, 1])
    return [
        Move(target + TOKEN_BYTES * row, TOKEN_BYTES, address, CHOSEN_BYTES, TOKEN_BYTES, count)
        for row, address, count in runs
    ]
