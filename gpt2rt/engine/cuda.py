"""The CUDA graph of a bundle: keys, values, inputs and logits stay on the device between calls.

A decode step is bound once to fixed addresses, so that ONNX Runtime can replay it as a CUDA graph.
Of its logits only the best are copied to the host (`gpt2rt.sampling.selection`).

Device memory is behind the interface `Memory`. Tests use its implementation over ordinary memory to
run the same code on the CPU provider and compare it with the other slots.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    DRAWN,
    INVERSE_TEMPERATURE,
    NORMALISER,
    POSITION,
    ROWS,
    SEQLENS,
    TOTAL,
    UNIFORM,
    Port,
    X,
    cuda,
)
from gpt2rt.bundles.interface import best as best_of
from gpt2rt.engine.cuda_memory import Array, Frame, Memory
from gpt2rt.engine.kvcache import share
from gpt2rt.engine.session import run_failure
from gpt2rt.engine.slots import KeysValues, Logits
from gpt2rt.errors import Gpt2rtError, OutOfMemory
from gpt2rt.sampling.selection import Draw, Selected

if TYPE_CHECKING:
    import onnxruntime as ort

GRAPHS = itertools.count(1)  # numbers of CUDA graphs, unique across sessions


class Call:
    """A call of the graph with fixed shapes, whose arrays on the device are bound once."""

    def __init__(
        self,
        session: ort.InferenceSession,
        hparams: HParams,
        memory: Memory,
        shape: tuple[int, int],
        rows: int,
        cache: Mapping[str, tuple[tuple[int, ...], int]],
        graph: int | None = None,
    ) -> None:
        """`shape` is (B, S), the tokens of the call, `rows` how many logits are wanted.

        `cache` maps the names of keys and values to shapes and addresses on the device. `graph` is
        the number of the CUDA graph that replays this call; None: it is not replayed.
        """
        self._session, self._memory, self._graph = session, memory, graph
        self._binding = session.io_binding()
        graph_of = cuda(hparams)
        sizes = {"B": shape[0], "S": shape[1], "R": rows}
        inputs = [port for port in graph_of.arguments if port is not TOTAL]
        logits, *outputs = graph_of.results
        self._sent, self._selected = _frame(memory, inputs, sizes), _frame(memory, outputs, sizes)
        self._form = logits.sized(sizes)
        self._row = hparams.n_vocab * np.dtype(logits.dtype).itemsize
        self._logits = memory.allocate(max(1, rows) * self._row)
        for port in inputs:
            self._bind_input(port, port.sized(sizes), self._sent.addresses[port.name])
        for port in outputs:
            self._bind_output(port, port.sized(sizes), self._selected.addresses[port.name])
        self._bind_output(logits, self._form, self._logits.address)
        self._total = np.zeros((), np.int32)  # read on the host
        self._shared = share(self._total)
        self._binding.bind_ortvalue_input(TOTAL.name, self._shared)
        for past, present in zip(graph_of.past, graph_of.present, strict=True):
            for before, after in zip(past, present, strict=True):
                self._bind_input(before, *cache[before.name])
                self._bind_output(after, *cache[before.name])

    def _bind_input(self, port: Port, shape: tuple[int, ...], address: int) -> None:
        self._binding.bind_input(port.name, self._memory.device, 0, _type(port), shape, address)

    def _bind_output(self, port: Port, shape: tuple[int, ...], address: int) -> None:
        self._binding.bind_output(port.name, self._memory.device, 0, _type(port), shape, address)

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays of the inputs on the host, to be written before `run`."""
        return self._sent.arrays

    def run(self, total: int) -> None:
        """Run the graph; `total` is the greatest length. Raises `OutOfMemory`, `BadBundle`."""
        import onnxruntime as ort

        self._sent.send()
        self._total[...] = total
        options = ort.RunOptions()
        if self._memory.device == "cuda":
            number = -1 if self._graph is None else self._graph
            options.add_run_config_entry("gpu_graph_id", str(number))
        try:
            with self._memory.lock:
                self._session.run_with_iobinding(self._binding, options)
        except Gpt2rtError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            if "Failed to allocate memory" in str(error):
                raise OutOfMemory(
                    "no room on the CUDA device for what the graph computes; "
                    "generate fewer side by side"
                ) from error
            raise run_failure(error) from error

    def logits(self) -> Logits:  # [R,V]
        """All logits, float32 [R, n_vocab], copied to the host."""
        return self._fetched(self._form, 0)

    def row(self, number: int) -> Logits:  # [V]
        """The logits of a row, float32 [n_vocab], copied to the host."""
        return self._fetched(self._form[1:], number)

    def _fetched(self, form: tuple[int, ...], first: int) -> Logits:
        array = np.empty(form, np.float32)
        size, source = array.nbytes, self._logits.address + first * self._row
        if size:
            self._memory.copy(array.ctypes.data, size, source, size, size, 1)
        return array

    def selected(self) -> dict[str, Array]:
        """The outputs other than logits, by name, copied to the host."""
        self._selected.fetch()
        return {name: array.copy() for name, array in self._selected.arrays.items()}


def _frame(memory: Memory, ports: Sequence[Port], sizes: Mapping[str, int]) -> Frame:
    return Frame(memory, [(port.name, port.sized(sizes), port.dtype) for port in ports])


def _type(port: Port) -> Any:
    return np.dtype(port.dtype).type


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


class CudaSlots:
    """Slots (see `gpt2rt.engine.slots`) with keys and values on the device, in float16."""

    def __init__(self, device: Device, count: int, buffers: Buffers) -> None:
        self.count = count
        self.buffers = buffers
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

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        wanted = [len(tokens) - 1] if rows is None else list(rows)
        return self._read(slot, np.asarray([tokens], np.int32), length, wanted)

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        return self._read(0, tokens, length, list(rows))

    def _read(
        self, first: int, tokens: NDArray[np.int32], length: int, rows: list[int]
    ) -> Logits:  # [B,S] -> [R,V]
        end = length + tokens.shape[1]
        call = self._call(first, (tokens.shape[0], tokens.shape[1]), len(rows))
        call.inputs[X.name][...] = tokens
        call.inputs[POSITION.name][...] = np.arange(length, end)
        call.inputs[ROWS.name][...] = rows
        call.inputs[SEQLENS.name][...] = end - 1
        call.inputs[INVERSE_TEMPERATURE.name][...] = 1
        call.run(end)
        return call.logits()

    def _step(self, rows: int) -> Call:
        """The decode step for that many rows, captured as a CUDA graph when it first runs."""
        steps = self.buffers.steps
        if rows not in steps:
            steps[rows] = self._call(0, (rows, 1), rows, next(GRAPHS))
            steps[rows].inputs[ROWS.name][...] = np.arange(rows)
        return steps[rows]

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Selected:
        batch = len(tokens)
        chosen = list(draws) or [Draw()] * batch
        call = self._step(power_of_two(batch))
        inputs = call.inputs
        for name, values in (
            (X.name, np.asarray(tokens)[:, None]),
            (POSITION.name, np.asarray(lengths)[:, None]),
            (SEQLENS.name, lengths),
            (INVERSE_TEMPERATURE.name, [draw.inverse_temperature for draw in chosen]),
            (UNIFORM.name, [draw.uniform for draw in chosen]),
        ):
            inputs[name][:batch] = values
            inputs[name][batch:] = 0
        # A captured graph keeps the numbers it read on the host. Attention reads only as far as
        # `seqlens_k`, so the total may be the greatest possible.
        call.run(self._hparams.n_ctx if self._memory.device == "cuda" else max(lengths) + 1)
        found = call.selected()
        logits, best = (found[port.name][:batch] for port in best_of(self._hparams))
        normaliser, drawn = found[NORMALISER.name][:batch], found[DRAWN.name][:batch]
        return Selected(best, logits, normaliser, drawn, chosen, self._hparams.n_vocab, call.row)

    def copy(self, source: int, target: int, length: int) -> None:
        pitch = self.buffers.pitch
        width = length * pitch // self._hparams.n_ctx
        for name in self.buffers.cache:
            places = self._at(name, target, 0), pitch, self._at(name, source, 0), pitch
            self._memory.copy(*places, width, self._hparams.n_head)

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
