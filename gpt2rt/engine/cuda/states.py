"""Hidden states on a device: of texts side by side, or weighted sums of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    POOL_WEIGHTS,
    POSITION,
    SEQLENS,
    TOTAL,
    Port,
    X,
    half_states,
    pool,
    states,
)
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.shapes import power_of_two
from gpt2rt.engine.cuda.whole import ReadersDevice, WholeReader, beside, fill

Vectors = NDArray[np.float32]
# Tokens of a text, and weights float32 [P,n] of its n states for P sums (None: the states).
Weighted = tuple[Sequence[int], Vectors | None]


class States:
    """A call that leaves the hidden states of a layer on the device."""

    def __init__(self, call: Call, hparams: HParams, cache: dict[str, int], layer: int) -> None:
        graph = states(hparams)
        self.call, self.pools = call, dict[int, Pool]()
        self._port = graph.results[layer]
        self._sent, self._found = call.frame((X, POSITION, SEQLENS)), call.frame([self._port])
        for port in (X, POSITION, SEQLENS):
            call.read(port, self._sent.addresses[port.name])
        call.read_host(TOTAL, np.array(call.sizes["S"], np.int32))
        call.write(self._port, self.address)
        call.in_place(graph, cache)

    @property
    def address(self) -> int:
        """Where the states lie on the device, float16 [B,S,D]."""
        return self._found.addresses[self._port.name]

    def run(self, tokens: NDArray[np.int32]) -> None:
        """Read texts [B,S]."""
        fill(self._sent.arrays, tokens)
        self._sent.send()
        self.call.run()

    def fetch(self) -> Vectors:
        """The states, float32 [B,S,D]."""
        self._found.fetch()
        return self._found.arrays[self._port.name].astype(np.float32)


class Pool:
    """The tail that sums states, which lie on the device at `address`, by weights."""

    def __init__(self, call: Call, hparams: HParams, address: int) -> None:
        (self._port,) = pool(hparams).results
        self._call = call
        self._sent, self._found = call.frame([POOL_WEIGHTS]), call.frame([self._port])
        call.read(half_states(hparams), address)
        call.read(POOL_WEIGHTS, self._sent.addresses[POOL_WEIGHTS.name])
        call.write(self._port, self._found.addresses[self._port.name])

    def run(self, weights: Sequence[Vectors]) -> list[Vectors]:
        """The sums of each text, float32 [P,D], by its weights [P,n]."""
        every = self._sent.arrays[POOL_WEIGHTS.name]
        every[...] = 0
        for text, own in zip(every, weights, strict=True):
            text[: own.shape[0], : own.shape[1]] = own
        self._sent.send()
        self._call.run()
        self._found.fetch()
        found = self._found.arrays[self._port.name]
        return [sums[: len(own)].copy() for sums, own in zip(found, weights, strict=True)]


class StateReader(WholeReader):
    """Reads whole texts on a device, for the hidden states of a layer."""

    gives = "vectors"

    @staticmethod
    def available(device: ReadersDevice) -> bool:
        return device.tails.has_states

    @staticmethod
    def ports(hparams: HParams) -> Iterable[Port]:
        return chain.from_iterable(states(hparams).past)

    def read(self, texts: Sequence[Weighted], layer: int) -> list[Vectors]:
        """The states of each text, float32 [n,D], or their sums by its weights, float32 [P,D].

        Either all texts have weights or none. Raises `OutOfMemory`.
        """
        return self.together(lambda some: self._read(some, layer), texts)

    def _read(self, texts: Sequence[Weighted], layer: int) -> list[Vectors]:
        count, width = len(texts), self.width(max(len(tokens) for tokens, _ in texts))
        call = self.call_of((count, width, layer), lambda: self._states(count, width, layer))
        call.run(beside([tokens for tokens, _ in texts], width))
        weights = [weights for _, weights in texts if weights is not None]
        if weights:
            return self._pool(call, power_of_two(max(map(len, weights)))).run(weights)
        every = call.fetch()
        return [rows[: len(tokens)] for rows, (tokens, _) in zip(every, texts, strict=True)]

    def _states(self, count: int, width: int, layer: int) -> States:
        device = self.device
        sizes = {"B": count, "S": width, "C": width}
        call = Call(device.tails.session("states"), device.memory, device.captures, sizes)
        return States(call, self.hparams, self.addresses, layer)

    def _pool(self, states: States, sums: int) -> Pool:
        """The tail for so many sums of the states of a call."""
        if sums not in states.pools:
            device, sizes = self.device, {**states.call.sizes, "P": sums}
            call = Call(device.tails.session("pool"), device.memory, device.captures, sizes)
            states.pools[sums] = Pool(call, self.hparams, states.address)
        return states.pools[sums]
