"""The slots of a batch on a device: keys, values, inputs and logits stay there between calls.

A decode step is bound once to fixed addresses, so that ONNX Runtime can replay it as a CUDA graph.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt2rt.bundles.interface import POSITION, ROWS, SEQLENS, X, cuda
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.forward import Fed, Forward, TokenChoice
from gpt2rt.engine.cuda.memory import Move
from gpt2rt.engine.cuda.rows import Chosen, DeviceRows, Place
from gpt2rt.engine.cuda.shapes import A_CALL, calls_of, padded, power_of_two, single, total
from gpt2rt.engine.slots import KeysValues, Logits, Part, Slots
from gpt2rt.errors import OutOfMemory
from gpt2rt.sampling.selection import Draw, Selected

# The use of a shape from which its call is kept, how many are, and the most rows that they hold.
OFTEN, KEPT, KEPT_ROWS = 3, 16, 256


class CudaSlots(Slots):
    """Slots (see `gpt2rt.engine.slots`) with keys and values on the device, in float16.

    The tokens of decode steps are one call, which is replayed; prompts are other calls. All are
    queued, and a step that comes after rows of the one before does not wait for them: their tokens
    go from its results to the next inputs on the device.
    """

    budget = A_CALL
    prefixes = False  # each layer's are a copy of its own, for which the device waits

    def __init__(self, device: Device, count: int) -> None:
        """Slots for `count` sequences. Raises `OutOfMemory`."""
        self.count = count
        self.buffers = device.buffers(power_of_two(count), user=self)
        self._ends = np.zeros(self.buffers.count, np.int32)  # after the last position of each slot
        self._device, self._hparams, self._memory = device, device.hparams, device.memory
        self._side = 0
        self._latest: Callable[[], DeviceRows | None] = lambda: None  # the rows of the last step

    @property
    def ahead(self) -> bool:  # type: ignore[override]
        """Whether replays are queued, and tokens chosen on the device."""
        device = self._device
        return device.careful is device.waits is device.captures.failure is None

    def _forward(self, first: int, shape: tuple[int, int], rows: int, total: int) -> Forward:
        """A call that reads and writes the keys and values of the slots from `first` on."""
        device, h = self._device, self._hparams
        sizes = {"B": shape[0], "S": shape[1], "R": rows, "C": h.n_ctx}
        call = Call(device.session, self._memory, device.captures, sizes)
        cache = {name: self._at(name, first, 0) for name in self.buffers.cache}
        return Forward(call, h, self._memory, device.tails, cache, total)

    def _at(self, name: str, slot: int, position: int) -> int:
        """The address of a position in the first head of a slot."""
        within = position * self.buffers.pitch // self._hparams.n_ctx
        return self.buffers.cache[name].address + slot * self.buffers.slot + within

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits | Selected:
        draws = () if self._device.careful is not None else draws
        rows = self._latest()
        follows = rows is not None and any(part.after and part.after.rows is rows for part in parts)
        self._side = 1 - self._side if follows else 0
        places: dict[int, Place] = {}
        choices: list[Chosen] = []
        for forward, theirs, numbers in self._run(parts):
            if draws and numbers:
                choice = TokenChoice(forward, theirs, [draws[number] for number in numbers])
                choices.append((choice, numbers))
            places |= zip(numbers, ((forward, row) for row in theirs), strict=True)
        ordered = [places[number] for number in range(len(places))]
        if not draws:
            return self._logits(ordered)
        rows = DeviceRows(self, ordered, choices, draws)
        self._latest = weakref.ref(rows)
        return rows

    def _run(self, parts: Sequence[Part]) -> Iterator[tuple[Forward, list[int], list[int]]]:
        """Run the calls for parts: each, the rows of it that are wanted, and their numbers.

        Where the memory does not suffice for prompts side by side, fewer are.
        """
        firsts = list(itertools.accumulate((part.wanted for part in parts), initial=0))
        calls = deque(calls_of(parts, together=self._device.careful is None))
        while calls:
            numbers = calls.popleft()
            members = [parts[n] for n in numbers]
            step = single(members[0])
            try:
                forward, theirs = (self._decode if step else self._read)(members)
            except OutOfMemory:
                if step or len(numbers) == 1:
                    raise
                calls.extendleft((numbers[len(numbers) // 2 :], numbers[: len(numbers) // 2]))
                continue
            for part in members:
                self._ends[part.slot] = part.end
            yield forward, theirs, [r for n in numbers for r in range(firsts[n], firsts[n + 1])]

    def _read(self, parts: Sequence[Part]) -> tuple[Forward, list[int]]:
        """Run a call for one part, or for prompts in consecutive slots, padded at their ends.

        Returns it, and which of its rows are wanted.
        """
        first, count = parts[0], len(parts)
        longest = max(len(part.tokens) for part in parts)
        width = min(padded(longest), self._hparams.n_ctx - first.start)
        rows = [
            number * width + place
            for number, part in enumerate(parts)
            for place in range(len(part.tokens) - part.wanted, len(part.tokens))
        ]
        forward = self._reading(first, (count, width), max(1, len(rows)))
        for tokens, part in zip(forward.inputs[X.name], parts, strict=True):
            tokens[: len(part.tokens)] = part.tokens
        forward.inputs[POSITION.name][...] = np.arange(first.start, first.start + width)
        forward.inputs[ROWS.name][...] = rows or [0]
        forward.inputs[SEQLENS.name][...] = first.start + width - 1
        forward.run()
        return forward, list(range(len(rows)))

    def _reading(self, first: Part, shape: tuple[int, int], rows: int) -> Forward:
        """The call of that shape for parts from the slot and position of `first` on.

        One that is needed often is kept, and captured as a CUDA graph.
        """
        buffers, key = self.buffers, (self._side, first.slot, *shape, rows)
        if first.start == 0 and key in buffers.reads:
            return buffers.reads[key]
        forward = self._forward(first.slot, shape, rows, first.start + shape[1])
        if first.start == 0 and rows <= KEPT_ROWS:
            buffers.uses[key] += 1
            if buffers.uses[key] == OFTEN and len(buffers.reads) < KEPT:
                buffers.reads[key] = forward
                forward.call.capture()
        return forward

    def _step(self, rows: int, length: int) -> Forward:
        """The decode step for that many rows of sequences of at most `length` positions.

        It is captured as a CUDA graph when it first runs.
        """
        most = total(rows, length, self._hparams.n_ctx)
        steps, key = self.buffers.steps, (self._side, rows, most)
        if key not in steps:
            forward = steps[key] = self._forward(0, (rows, 1), rows, most)
            forward.inputs[ROWS.name][...] = np.arange(rows)
            forward.call.capture()
        return steps[key]

    def _decode(self, parts: Sequence[Part]) -> tuple[Forward, list[int]]:
        """Run the decode step for parts of one token. Returns it, and the rows of the parts.

        It also runs over slots that take no part in it, where it writes after the last position.
        """
        slots = [part.slot for part in parts]
        rows = power_of_two(max(slots) + 1)
        ends = np.minimum(self._ends[:rows], self._hparams.n_ctx - 1)
        ends[slots] = [part.start for part in parts]
        forward = self._step(rows, int(ends.max()) + 1)
        tokens, fed = self._tokens(parts)
        inputs = forward.inputs
        inputs[X.name][...] = 0
        inputs[X.name][slots, 0] = tokens
        inputs[POSITION.name][:, 0] = inputs[SEQLENS.name][...] = ends
        forward.run(fed)
        return forward, slots

    def _tokens(self, parts: Sequence[Part]) -> tuple[list[int], Fed]:
        """The tokens of parts of one token, with 0 for those that only the device knows yet."""
        rows = self._latest()
        tokens: list[int] = []
        fed: list[tuple[int, int]] = []
        for part in parts:
            row = part.after
            if row is None:
                tokens.append(part.tokens[0])
            elif rows is not None and row.rows is rows and rows.sources and not rows.known:
                tokens.append(0)
                fed.append((part.slot, rows.sources[row.number]))
            else:
                tokens.append(row.chosen)
        return tokens, fed

    def _logits(self, places: Sequence[Place]) -> Logits:
        """The logits of these rows, float32 [R, n_vocab], copied to the host."""
        whole = {call: call.logits() for call in dict.fromkeys(call for call, _ in places)}
        if len(whole) == 1 and [row for _, row in places] == list(range(len(places))):
            return next(iter(whole.values()))[: len(places)]
        none = np.empty((0, self._hparams.n_vocab), np.float32)
        return np.concatenate([none, *(whole[call][[row]] for call, row in places)])

    def copy(self, source: int, target: int, length: int) -> None:
        pitch = self.buffers.pitch
        width = length * pitch // self._hparams.n_ctx
        if length:
            self._memory.queue(
                *(
                    Move(
                        self._at(name, target, 0),
                        pitch,
                        self._at(name, source, 0),
                        pitch,
                        width,
                        self._hparams.n_head,
                    )
                    for name in self.buffers.cache
                )
            )
        self._ends[target] = length

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        h = self._hparams
        kv = np.empty((h.n_layer, 2, h.n_head, end - start, h.kv_width), np.float16)
        self._memory.copy(
            *(
                Move(ours, width, theirs, self.buffers.pitch, width, h.n_head)
                for ours, theirs, width in self._pairs(kv, slot, start)
            )
        )
        return kv

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        kv = np.ascontiguousarray(kv)
        self._memory.copy(
            *(
                Move(theirs, self.buffers.pitch, ours, width, width, self._hparams.n_head)
                for ours, theirs, width in self._pairs(kv, slot, start)
            )
        )
        self._ends[slot] = start + kv.shape[-2]

    def _pairs(self, kv: KeysValues, slot: int, start: int) -> Iterator[tuple[int, int, int]]:
        """The address of each layer's keys and values in `kv`, that on the device, and the bytes of
        a head."""
        for pair, layer in zip(cuda(self._hparams).past, kv, strict=True):
            for port, values in zip(pair, layer, strict=True):
                yield values.ctypes.data, self._at(port.name, slot, start), values[0].nbytes
