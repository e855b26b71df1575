"""The memory of slots on a device, and the calls that are bound to it."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import cuda
from gpt2rt.engine.cuda.forward import Forward
from gpt2rt.engine.cuda.memory import Memory

# The side, the first slot, sequences, tokens of each, rows of logits.
Shape = tuple[int, int, int, int, int]


class Buffers:
    """The keys and values of `count` slots, and the calls that are bound to them.

    `pitch` is the size in bytes of a head, `slot` that of all heads of a slot. `steps` are decode
    steps by side, rows and total length, `reads` the calls that read prompts by their shapes, of
    which `uses` counts how often each was needed. Of calls there are two sides, so that a step can
    be queued while the results of the one before are still needed.
    """

    def __init__(self, hparams: HParams, memory: Memory, count: int) -> None:
        self.count = count
        self.pitch = hparams.n_ctx * hparams.kv_width * np.dtype(np.float16).itemsize  # of a head
        self.slot = hparams.n_head * self.pitch
        keys_values = itertools.chain.from_iterable(cuda(hparams).past)
        self.cache = {port.name: memory.allocate(count * self.slot) for port in keys_values}
        self.steps: dict[tuple[int, int, int], Forward] = {}
        self.reads: dict[Shape, Forward] = {}
        self.uses: Counter[Shape] = Counter()
