"""The tail of the CUDA graph that scores a token in each row of logits: only numbers travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    GROUPED,
    LOGPROB,
    RANK,
    SCORE,
    TARGET,
    TOP,
    TOP_IDS,
    TOP_LOGPROBS,
    group,
    tail,
)
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.memory import Memory, Move
from gpt2rt.engine.slots import Columns
from gpt2rt.errors import BadLogits

Ids = NDArray[np.int64]
Indices = Sequence[int] | NDArray[np.integer[Any]]


class Group:
    """A group of tokens on the device (None: of no tokens), as the tail reads it."""

    def __init__(self, hparams: HParams, memory: Memory, tokens: Ids | None) -> None:
        self.tokens = tokens
        port = group(hparams)
        members = np.zeros(port.sized({}), port.dtype)
        members[[] if tokens is None else tokens] = 1
        self._block = memory.allocate(members.nbytes)
        self.address = self._block.address
        size = members.nbytes
        memory.copy(Move(self.address, size, members.ctypes.data, size, size, 1))


class Scores:
    """The tail over the logits of a call, which lie on the device at `address`.

    The letter `K` of the call's sizes is the number of alternatives, at least 1.
    """

    def __init__(self, call: Call, hparams: HParams, address: int, members: Group) -> None:
        logits, *_ = tail(hparams, SCORE).arguments
        results = tail(hparams, SCORE).results
        self._call, self.members = call, members
        self._sent, self._found = call.frame([TARGET]), call.frame(results)
        call.read(logits, address)
        call.read(TARGET, self._sent.addresses[TARGET.name])
        call.read(group(hparams), members.address)
        call.read_host(TOP, np.array([call.sizes["K"]]))
        for port in results:
            call.write(port, self._found.addresses[port.name])

    def score(self, rows: Indices, targets: Indices, top: int) -> Columns:
        """The columns for a target in each of some rows. Raises `BadLogits`."""
        self._sent.arrays[TARGET.name][rows, 0] = targets
        self._sent.send()
        self._call.run()
        self._found.fetch()
        found = {name: array[rows] for name, array in self._found.arrays.items()}
        if not np.isfinite(found[LOGPROB.name]).all():
            raise BadLogits("the model's logits are not finite; its weights are damaged")
        grouped = found[GROUPED.name][:, 0]
        return Columns(
            found[LOGPROB.name][:, 0],
            found[RANK.name][:, 0],
            found[TOP_IDS.name][:, :top].astype(np.int32),
            found[TOP_LOGPROBS.name][:, :top],
            np.full_like(grouped, np.nan) if self.members.tokens is None else grouped,
        )
