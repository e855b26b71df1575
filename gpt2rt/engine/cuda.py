"""The CUDA graph of a bundle: keys, values, inputs and logits stay on the device between calls.

A decode step is bound once to fixed addresses, so that ONNX Runtime can replay it as a CUDA graph.
Of its logits only the best are copied to the host (`gpt2rt.sampling.selection`).

Device memory is behind the interface `Memory`. Tests use its implementation over ordinary memory to
run the same code on the CPU provider and compare it with the other slots.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    DRAWN,
    NORMALISER,
    POSITION,
    ROWS,
    SEQLENS,
    X,
    cuda,
)
from gpt2rt.bundles.interface import best as best_of
from gpt2rt.engine.cuda_call import Call
from gpt2rt.engine.cuda_memory import Memory
from gpt2rt.engine.slots import KeysValues, Logits, Part, Slots
from gpt2rt.errors import OutOfMemory
from gpt2rt.sampling.selection import Draw, Selected

if TYPE_CHECKING:
    import onnxruntime as ort

Place = tuple[Call, int]  # a call, and the number of a row of its logits
GRAPHS = itertools.count(1)  # numbers of CUDA graphs, unique across sessions


class Buffers:
    """The keys and values of `count` slots, and the decode steps that are bound to them.

    `pitch` is the size in bytes of a head, `slot` that of all heads of a slot.
    """

    def __init__(self, hparams: HParams, memory: Memory, count: int) -> None:
        self.count = count
        self.pitch = hparams.n_ctx * hparams.kv_width * np.dtype(np.float16).itemsize  # of a head
        self.slot = hparams.n_head * self.pitch
        keys_values = chain.from_iterable(cuda(hparams).past)
        self.cache = {port.name: memory.allocate(count * self.slot) for port in keys_values}
        self.steps: dict[int, Call] = {}


class Device:
    """A session on a device, and its pool of buffers for slots.

    Buffers are reused, since a captured CUDA graph is bound to their addresses and exists as long
    as the session. The number of slots is a power of two, and so is the number of rows of a step,
    so that there are few graphs; the extra rows run in unused slots.
    """

    def __init__(self, session: ort.InferenceSession, hparams: HParams, memory: Memory) -> None:
        self.session, self.hparams, self.memory = session, hparams, memory
        self._idle: list[Buffers] = []

    def slots(self, count: int) -> CudaSlots:
        """Slots for `count` sequences, whose buffers return to the pool. Raises `OutOfMemory`."""
        with self.memory.lock:
            slots = CudaSlots(self, count, self._take(power_of_two(count)))
        weakref.finalize(slots, self._idle.append, slots.buffers).atexit = False
        return slots

    def _take(self, count: int) -> Buffers:
        for number, buffers in enumerate(self._idle):
            if buffers.count == count:
                return self._idle.pop(number)
        try:
            return Buffers(self.hparams, self.memory, count)
        except OutOfMemory:
            if not self._idle:
                raise
            self._idle.clear()
            return Buffers(self.hparams, self.memory, count)


def power_of_two(count: int) -> int:
    """The least power of two that is `count` or more."""
    return 1 << max(0, count - 1).bit_length()


def single(part: Part) -> bool:
    """Whether a part is one token whose logits are wanted, as in a decode step."""
    return len(part.tokens) == part.wanted == 1


def calls_of(parts: Sequence[Part]) -> list[list[int]]:
    """The parts, by their numbers, that each call of the graph runs: first those of a decode step.

    Prompts from their beginnings in consecutive slots run side by side, all others one by one.
    """
    steps = [number for number, part in enumerate(parts) if single(part)]
    runs: list[list[int]] = []
    for number, part in enumerate(parts):
        if single(part):
            continue
        before = parts[runs[-1][-1]] if runs else None
        if before and before.start == part.start == 0 and part.slot == before.slot + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [steps, *runs] if steps else runs


class CudaSlots(Slots):
    """Slots (see `gpt2rt.engine.slots`) with keys and values on the device, in float16.

    The tokens of decode steps are one call, which is replayed; prompts are other calls.
    """

    def __init__(self, device: Device, count: int, buffers: Buffers) -> None:
        self.count = count
        self.buffers = buffers
        self._ends = np.zeros(buffers.count, np.int32)  # after the last position of each slot
        self._device, self._hparams, self._memory = device, device.hparams, device.memory

    def _call(
        self, first: int, shape: tuple[int, int], rows: int, graph: int | None = None
    ) -> Call:
        """A call that reads and writes the keys and values of the slots from `first` on."""
        h = self._hparams
        form = (shape[0], h.n_head, h.n_ctx, h.kv_width)
        cache = {name: (form, self._at(name, first, 0)) for name in self.buffers.cache}
        return Call(self._device.session, h, self._memory, shape, rows, cache, graph)

    def _at(self, name: str, slot: int, position: int) -> int:
        """The address of a position in the first head of a slot."""
        within = position * self.buffers.pitch // self._hparams.n_ctx
        return self.buffers.cache[name].address + slot * self.buffers.slot + within

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits | Selected:
        firsts = list(itertools.accumulate((part.wanted for part in parts), initial=0))
        chosen = list(draws) or [Draw()] * firsts[-1]
        places: dict[int, Place] = {}
        for numbers in calls_of(parts):
            rows = [row for n in numbers for row in range(firsts[n], firsts[n + 1])]
            members, theirs = [parts[n] for n in numbers], [chosen[row] for row in rows]
            run = self._decode if single(members[0]) else self._read
            places |= zip(rows, run(members, theirs), strict=True)
        for part in parts:
            self._ends[part.slot] = part.end
        found = [places[row] for row in range(firsts[-1])]
        return self._selected(found, chosen) if draws else self._logits(found)

    def _read(self, parts: Sequence[Part], draws: Sequence[Draw]) -> list[Place]:
        """Run a call for one part, or for prompts in consecutive slots, padded at their ends."""
        first, count = parts[0], len(parts)
        width = max(len(part.tokens) for part in parts)
        rows = [
            number * width + place
            for number, part in enumerate(parts)
            for place in range(len(part.tokens) - part.wanted, len(part.tokens))
        ]
        call = self._call(first.slot, (count, width), max(1, len(rows)))
        for tokens, part in zip(call.inputs[X.name], parts, strict=True):
            tokens[: len(part.tokens)] = part.tokens
        call.inputs[POSITION.name][...] = np.arange(first.start, first.start + width)
        call.inputs[ROWS.name][...] = rows or [0]
        call.inputs[SEQLENS.name][...] = first.start + width - 1
        call.draw(range(len(rows)), draws)
        call.run(first.start + width)
        return [(call, row) for row in range(len(rows))]

    def _step(self, rows: int) -> Call:
        """The decode step for that many rows, captured as a CUDA graph when it first runs."""
        steps = self.buffers.steps
        if rows not in steps:
            steps[rows] = self._call(0, (rows, 1), rows, next(GRAPHS))
            steps[rows].inputs[ROWS.name][...] = np.arange(rows)
        return steps[rows]

    def _decode(self, parts: Sequence[Part], draws: Sequence[Draw]) -> list[Place]:
        """Run the decode step for parts of one token.

        It also runs over slots that take no part in it, where it writes after the last position.
        """
        slots = [part.slot for part in parts]
        rows = power_of_two(max(slots) + 1)
        call = self._step(rows)
        ends = np.minimum(self._ends[:rows], self._hparams.n_ctx - 1)
        ends[slots] = [part.start for part in parts]
        call.inputs[X.name][...] = 0
        call.inputs[X.name][slots, 0] = [part.tokens[0] for part in parts]
        call.inputs[POSITION.name][:, 0] = call.inputs[SEQLENS.name][...] = ends
        call.draw(slots, draws)
        # A captured graph keeps the numbers it read on the host. Attention reads only as far as
        # `seqlens_k`, so the total may be the greatest possible.
        device = self._memory.device == "cuda"
        call.run(self._hparams.n_ctx if device else int(ends.max()) + 1)
        return [(call, slot) for slot in slots]

    def _logits(self, places: Sequence[Place]) -> Logits:
        """The logits of these rows, float32 [R, n_vocab], copied to the host."""
        whole = {call: call.logits() for call in dict.fromkeys(call for call, _ in places)}
        if len(whole) == 1 and [row for _, row in places] == list(range(len(places))):
            return next(iter(whole.values()))[: len(places)]
        none = np.empty((0, self._hparams.n_vocab), np.float32)
        return np.concatenate([none, *(whole[call][[row]] for call, row in places)])

    def _selected(self, places: Sequence[Place], draws: list[Draw]) -> Selected:
        """What the device selected of these rows; their logits stay there."""
        found = {call: call.selected() for call in dict.fromkeys(call for call, _ in places)}
        logits, best, normaliser, drawn = (
            np.array([found[call][port.name][row] for call, row in places])
            for port in (*best_of(self._hparams), NORMALISER, DRAWN)
        )
        n_vocab = self._hparams.n_vocab

        def fetch(number: int) -> Logits:
            call, row = places[number]
            return call.row(row)

        return Selected(best, logits, normaliser, drawn, draws, n_vocab, fetch)

    def copy(self, source: int, target: int, length: int) -> None:
        pitch = self.buffers.pitch
        width = length * pitch // self._hparams.n_ctx
        for name in self.buffers.cache if length else ():
            places = self._at(name, target, 0), pitch, self._at(name, source, 0), pitch
            self._memory.copy(*places, width, self._hparams.n_head)
        self._ends[target] = length

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        h = self._hparams
        kv = np.empty((h.n_layer, 2, h.n_head, end - start, h.kv_width), np.float16)
        for pair, layer in zip(cuda(h).past, kv, strict=True):
            for port, into in zip(pair, layer, strict=True):
                width = into[0].nbytes
                source = self._at(port.name, slot, start), self.buffers.pitch
                self._memory.copy(into.ctypes.data, width, *source, width, h.n_head)
        return kv

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        past = cuda(self._hparams).past
        for pair, layer in zip(past, np.ascontiguousarray(kv), strict=True):
            for port, values in zip(pair, layer, strict=True):
                width = values[0].nbytes
                target = self._at(port.name, slot, start), self.buffers.pitch
                self._memory.copy(*target, values.ctypes.data, width, width, self._hparams.n_head)
        self._ends[slot] = start + kv.shape[-2]
