"""The fused graph on a CUDA device: keys, values, inputs and logits stay there between calls.

A decode step is bound once to fixed addresses, so that ONNX Runtime can replay it as a CUDA graph.
Of its logits only what the sampler asks for comes back (`gpt2rt.selection`).

What the slots ask of a device is a `Memory`; the one over ordinary memory lets the same code run on
the CPU provider, where the tests hold it against the other slots.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundle import SHORTLIST, Tensors
from gpt2rt.errors import Gpt2rtError
from gpt2rt.hparams import HParams
from gpt2rt.kvcache import share
from gpt2rt.providers import cuda_runtime
from gpt2rt.selection import Draw, Selected
from gpt2rt.session import KeysValues, Logits, failed

if TYPE_CHECKING:
    import onnxruntime as ort

Array = NDArray[Any]
Lock = AbstractContextManager[object]
Field = tuple[str, tuple[int, ...], Any]  # name, shape, dtype


class Block(Protocol):
    """Bytes of a memory, given back when nobody holds this any more."""

    address: int


class Memory(Protocol):
    """Memory that a provider computes in."""

    device: str  # as ONNX Runtime calls it
    lock: Lock  # held by whoever uses the device

    def allocate(self, size: int, *, host: bool = False) -> Block:
        """Zeros, on the device or where the host and copies reach them fastest."""

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int
    ) -> None:
        """`count` runs of `width` bytes, so far apart, between any addresses of device and host."""


class _HostBlock:
    def __init__(self, size: int) -> None:
        self._bytes = np.zeros(size, np.uint8)
        self.address = int(self._bytes.ctypes.data)


class HostMemory:
    """Ordinary memory, for the CPU provider."""

    device = "cpu"
    lock: Lock = nullcontext()

    def allocate(self, size: int, *, host: bool = False) -> Block:
        return _HostBlock(size)

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int
    ) -> None:
        for run in range(count):
            ctypes.memmove(target + run * target_pitch, source + run * source_pitch, width)


class _CudaBlock:
    def __init__(self, runtime: ctypes.CDLL, lock: Lock, size: int, host: bool) -> None:
        self.address = 0
        self._lock = lock
        self._free = runtime.cudaFreeHost if host else runtime.cudaFree
        address = ctypes.c_void_p()
        allocate = runtime.cudaMallocHost if host else runtime.cudaMalloc
        code = allocate(ctypes.byref(address), ctypes.c_size_t(size))
        if code == NO_MEMORY:
            runtime.cudaGetLastError()  # or ONNX Runtime takes the failure for one of its own
            raise OutOfMemory(
                f"no room for {size / 1e6:,.0f} MB on the CUDA device; generate fewer side by side"
            )
        _checked(runtime, code, f"allocate {size} bytes")
        self.address = int(address.value or 0)
        _checked(runtime, runtime.cudaMemset(address, 0, ctypes.c_size_t(size)), "clear memory")

    def __del__(self) -> None:
        if self.address:
            with self._lock:
                self._free(ctypes.c_void_p(self.address))


class OutOfMemory(Gpt2rtError):
    """The device has not that much memory left."""


def _checked(runtime: ctypes.CDLL, code: int, what: str) -> None:
    """Raises `Gpt2rtError` where CUDA's answer is no success."""
    if code:
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        reason = runtime.cudaGetErrorString(code).decode()
        raise Gpt2rtError(f"CUDA could not {what}: {reason} (error {code})")


class CudaMemory:
    """The memory of CUDA device 0, by CUDA's runtime library, which ONNX Runtime has loaded.

    One thread at a time uses it: while a CUDA graph is captured, whatever another thread allocates,
    frees or copies would spoil it.
    """

    device = "cuda"

    def __init__(self) -> None:
        self._runtime = cuda_runtime()
        self.lock: Lock = RLock()

    def allocate(self, size: int, *, host: bool = False) -> Block:
        with self.lock:
            return _CudaBlock(self._runtime, self.lock, size, host)

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int
    ) -> None:
        sizes = [ctypes.c_size_t(n) for n in (source_pitch, width, count)]
        places = ctypes.c_void_p(target), ctypes.c_size_t(target_pitch), ctypes.c_void_p(source)
        with self.lock:
            code = self._runtime.cudaMemcpy2D(*places, *sizes, WHEREVER)
            # A copy from the host may return before the device has it, and ONNX Runtime's stream
            # waits for no other.
            code = code or self._runtime.cudaStreamSynchronize(None)
        _checked(self._runtime, code, f"copy {width * count} bytes")


NO_MEMORY = 2  # cudaErrorMemoryAllocation
WHEREVER = 4  # cudaMemcpyDefault: the addresses tell on which side they are
ALIGNMENT = 256  # bytes, as cudaMalloc aligns
GRAPHS = itertools.count(1)  # numbers of CUDA graphs: never one twice, whatever the session


class Frame:
    """Arrays side by side on the device, and the same on the host, so that one copy moves all."""

    def __init__(self, memory: Memory, fields: Sequence[Field]) -> None:
        self._memory = memory
        sizes = [max(1, int(np.prod(form))) * np.dtype(dtype).itemsize for _, form, dtype in fields]
        steps = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        self._size = sum(steps)
        self._device = memory.allocate(self._size)
        self._host = memory.allocate(self._size, host=True)
        self.addresses: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}  # on the host
        places = itertools.accumulate(steps, initial=0)
        for (name, form, dtype), size, offset in zip(fields, sizes, places, strict=False):
            self.addresses[name] = self._device.address + offset
            content = (ctypes.c_uint8 * size).from_address(self._host.address + offset)
            count = int(np.prod(form))
            self.arrays[name] = np.frombuffer(memoryview(content), dtype, count).reshape(form)

    def send(self) -> None:
        """From the host to the device."""
        self._move(self._device.address, self._host.address)

    def fetch(self) -> None:
        """From the device to the host."""
        self._move(self._host.address, self._device.address)

    def _move(self, target: int, source: int) -> None:
        self._memory.copy(target, self._size, source, self._size, self._size, 1)


class Call:
    """One shape of call to the graph: its arrays on the device, bound once and written in place."""

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
        """`cache`: what the names of keys and values are bound to, as shapes and addresses;
        `graph`: the number of the CUDA graph that replays this call; None: none does.
        """
        self._session, self._memory, self._graph = session, memory, graph
        self._binding = session.io_binding()
        best = min(SHORTLIST, hparams.n_vocab)
        inputs: list[Field] = [
            (Tensors.X, shape, np.int32),
            (Tensors.POSITION, shape, np.int32),
            (Tensors.ROWS, (rows,), np.int32),
            (Tensors.SEQLENS, shape[:1], np.int32),
            (Tensors.HEAT, (rows,), np.float32),
            (Tensors.UNIFORM, (rows,), np.float32),
        ]
        outputs: list[Field] = [
            (Tensors.BEST_LOGITS, (rows, best), np.float32),
            (Tensors.BEST, (rows, best), np.int64),
            (Tensors.MASS, (rows,), np.float32),
            (Tensors.DRAWN, (rows,), np.int64),
        ]
        self._sent, self._selected = Frame(memory, inputs), Frame(memory, outputs)
        self._row = hparams.n_vocab * np.dtype(np.float32).itemsize
        self._logits = memory.allocate(max(1, rows) * self._row)
        self._form = rows, hparams.n_vocab
        for name, form, dtype in inputs:
            place = memory.device, 0, dtype, form, self._sent.addresses[name]
            self._binding.bind_input(name, *place)
        for name, form, dtype in outputs:
            place = memory.device, 0, dtype, form, self._selected.addresses[name]
            self._binding.bind_output(name, *place)
        self._binding.bind_output(
            Tensors.LOGITS, memory.device, 0, np.float32, self._form, self._logits.address
        )
        self._total = np.zeros((), np.int32)  # read on the host
        self._shared = share(self._total)
        self._binding.bind_ortvalue_input(Tensors.TOTAL, self._shared)
        for layer in range(hparams.n_layer):
            for past, present in zip(Tensors.past(layer), Tensors.present(layer), strict=True):
                where = memory.device, 0, np.float16, *cache[past]
                self._binding.bind_input(past, *where)
                self._binding.bind_output(present, *where)

    @property
    def inputs(self) -> dict[str, Array]:
        """The inputs on the host, to be written before a run."""
        return self._sent.arrays

    def run(self, total: int) -> None:
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
        except Exception as error:  # ONNX Runtime's have no common base
            if "Failed to allocate memory" in str(error):
                raise OutOfMemory(
                    "no room on the CUDA device for what the graph computes; "
                    "generate fewer side by side"
                ) from error
            raise failed(error) from error

    def logits(self) -> Logits:  # [R,V]
        """A copy of all logits."""
        return self._fetched(self._form, 0)

    def row(self, number: int) -> Logits:  # [V]
        """A copy of the logits of one row."""
        return self._fetched(self._form[1:], number)

    def _fetched(self, form: tuple[int, ...], first: int) -> Logits:
        array = np.empty(form, np.float32)
        size, source = array.nbytes, self._logits.address + first * self._row
        if size:
            self._memory.copy(array.ctypes.data, size, source, size, size, 1)
        return array

    def selected(self) -> dict[str, Array]:
        """Copies of what was selected of every row."""
        self._selected.fetch()
        return {name: array.copy() for name, array in self._selected.arrays.items()}


class Buffers:
    """Keys and values of a number of slots, and the decode steps that are bound to them."""

    def __init__(self, hparams: HParams, memory: Memory, count: int) -> None:
        self.count = count
        self.pitch = hparams.n_ctx * hparams.kv_width * np.dtype(np.float16).itemsize  # of a head
        self.slot = hparams.n_head * self.pitch
        names = [name for layer in range(hparams.n_layer) for name in Tensors.past(layer)]
        self.cache = {name: memory.allocate(count * self.slot) for name in names}
        self.steps: dict[int, Call] = {}


class Device:
    """A session on a device, and the buffers that its slots come from and go back to.

    Buffers are used again, since a captured CUDA graph is bound to their addresses and stays with
    the session. Their slots are a power of two, and so are the rows of a step, which keeps the
    graphs few; rows that nobody asked for run in slots that nobody holds.
    """

    def __init__(self, session: ort.InferenceSession, hparams: HParams, memory: Memory) -> None:
        self.session, self.hparams, self.memory = session, hparams, memory
        self._idle: list[Buffers] = []

    def slots(self, count: int) -> CudaSlots:
        """Places for `count` sequences. Raises `OutOfMemory`."""
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
    """The least that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


class CudaSlots:
    """Slots whose keys and values lie on the device, in float16."""

    def __init__(self, device: Device, count: int, buffers: Buffers) -> None:
        self.count = count
        self.buffers = buffers
        self._device, self._hparams, self._memory = device, device.hparams, device.memory

    def _call(
        self, first: int, shape: tuple[int, int], rows: int, graph: int | None = None
    ) -> Call:
        """A call for the slots from `first` on, whose keys and values it reads and writes."""
        h = self._hparams
        form = (shape[0], h.n_head, h.n_ctx, h.kv_width)
        cache = {name: (form, self._at(name, first, 0)) for name in self.buffers.cache}
        return Call(self._device.session, h, self._memory, shape, rows, cache, graph)

    def _at(self, name: str, slot: int, position: int) -> int:
        """Where a position of a slot's first head lies."""
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
        call.inputs[Tensors.X][...] = tokens
        call.inputs[Tensors.POSITION][...] = np.arange(length, end)
        call.inputs[Tensors.ROWS][...] = rows
        call.inputs[Tensors.SEQLENS][...] = end - 1
        call.inputs[Tensors.HEAT][...] = 1
        call.run(end)
        return call.logits()

    def _step(self, rows: int) -> Call:
        """The step of so many rows, which is captured as a CUDA graph when it first runs."""
        steps = self.buffers.steps
        if rows not in steps:
            steps[rows] = self._call(0, (rows, 1), rows, next(GRAPHS))
            steps[rows].inputs[Tensors.ROWS][...] = np.arange(rows)
        return steps[rows]

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Selected:
        batch = len(tokens)
        chosen = list(draws) or [Draw()] * batch
        call = self._step(power_of_two(batch))
        inputs = call.inputs
        for name, values in (
            (Tensors.X, np.asarray(tokens)[:, None]),
            (Tensors.POSITION, np.asarray(lengths)[:, None]),
            (Tensors.SEQLENS, lengths),
            (Tensors.HEAT, [draw.heat for draw in chosen]),
            (Tensors.UNIFORM, [draw.uniform for draw in chosen]),
        ):
            inputs[name][:batch] = values
            inputs[name][batch:] = 0
        # A captured graph keeps the numbers it saw on the host: attention looks no further than
        # `seqlens_k`, so the total may be the most that fits.
        call.run(self._hparams.n_ctx if self._memory.device == "cuda" else max(lengths) + 1)
        found = call.selected()
        best, logits = found[Tensors.BEST][:batch], found[Tensors.BEST_LOGITS][:batch]
        mass, drawn = found[Tensors.MASS][:batch], found[Tensors.DRAWN][:batch]
        return Selected(best, logits, mass, drawn, chosen, self._hparams.n_vocab, call.row)

    def copy(self, source: int, target: int, length: int) -> None:
        pitch = self.buffers.pitch
        width = length * pitch // self._hparams.n_ctx
        for name in self.buffers.cache:
            places = self._at(name, target, 0), pitch, self._at(name, source, 0), pitch
            self._memory.copy(*places, width, self._hparams.n_head)

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        h = self._hparams
        kv = np.empty((h.n_layer, 2, h.n_head, end - start, h.kv_width), np.float16)
        for layer in range(h.n_layer):
            for name, into in zip(Tensors.past(layer), kv[layer], strict=True):
                width = into[0].nbytes
                source = self._at(name, slot, start), self.buffers.pitch
                self._memory.copy(into.ctypes.data, width, *source, width, h.n_head)
        return kv

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        for layer, pair in enumerate(np.ascontiguousarray(kv)):
            for name, values in zip(Tensors.past(layer), pair, strict=True):
                width = values[0].nbytes
                target = self._at(name, slot, start), self.buffers.pitch
                self._memory.copy(*target, values.ctypes.data, width, width, self._hparams.n_head)
