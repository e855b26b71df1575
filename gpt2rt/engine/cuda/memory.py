"""Memory of an execution provider: a CUDA device's, or ordinary memory with the same interface."""

from __future__ import annotations

import ctypes
import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.interface import Port
from gpt2rt.engine.providers import cuda_runtime
from gpt2rt.errors import Gpt2rtError, OutOfMemory, ProviderMissing

Array = NDArray[Any]
Lock = AbstractContextManager[object]
Field = tuple[str, tuple[int, ...], str]  # name, shape, dtype


class Move(NamedTuple):
    """A copy of `runs` of `width` bytes each from `source` to `target`, which are addresses.

    The pitches are the distances in bytes between the starts of the runs.
    """

    target: int
    target_pitch: int
    source: int
    source_pitch: int
    width: int
    runs: int


class Block(Protocol):
    """Allocated memory, freed with this object."""

    address: int


class Mark(Protocol):
    """A point in the order of a device's work."""

    def set(self) -> None:
        """Set it after all that was queued so far."""

    def wait(self) -> None:
        """Wait until the device has done what was queued before it."""


class Memory(Protocol):
    """The memory of an execution provider, and the order of its work.

    `device` is ONNX Runtime's name for it, `lock` is held while the device is used, `stream` the
    address of the CUDA stream on which sessions and moves are queued (None: each is done at once).
    """

    device: str
    lock: Lock
    stream: int | None

    def allocate(self, size: int, *, host: bool = False) -> Block:
        """Allocate zeroed memory on the device, or with `host` on the host, fastest to copy."""

    def copy(self, *moves: Move) -> None:
        """Make moves between any addresses of device and host, and wait until all are made."""

    def queue(self, *moves: Move) -> None:
        """Have moves made after all that was queued before, without waiting.

        Until then the memory of the host among them has to stay as it is.
        """

    def mark(self) -> Mark:
        """A new mark."""


class _HostBlock:
    def __init__(self, size: int) -> None:
        self._bytes = np.zeros(size, np.uint8)
        self.address = int(self._bytes.ctypes.data)


class _Done:
    """The mark of a provider that does everything at once."""

    def set(self) -> None:
        pass

    def wait(self) -> None:
        pass


class HostMemory:
    """Ordinary memory, for the CPU provider."""

    device = "cpu"
    lock: Lock = nullcontext()
    stream: int | None = None

    def allocate(self, size: int, *, host: bool = False) -> Block:
        return _HostBlock(size)

    def copy(self, *moves: Move) -> None:
        for move in moves:
            for run in range(move.runs):
                target = move.target + run * move.target_pitch
                ctypes.memmove(target, move.source + run * move.source_pitch, move.width)

    queue = copy

    def mark(self) -> Mark:
        return _Done()


class _CudaBlock:
    def __init__(self, memory: CudaMemory, size: int, host: bool) -> None:
        self.address = 0
        self._memory = memory
        runtime = memory.runtime
        self._free = runtime.cudaFreeHost if host else runtime.cudaFree
        address = ctypes.c_void_p()
        allocate = runtime.cudaMallocHost if host else runtime.cudaMalloc
        code = allocate(ctypes.byref(address), ctypes.c_size_t(size))
        if code == NO_MEMORY:
            runtime.cudaGetLastError()  # or ONNX Runtime would report this failure as its own
            raise OutOfMemory(
                f"no room for {size / 1e6:,.0f} MB on the CUDA device; generate fewer side by side"
            )
        _checked(runtime, code, f"allocate {size} bytes")
        self.address = int(address.value or 0)
        code = runtime.cudaMemsetAsync(address, 0, ctypes.c_size_t(size), memory.place)
        _checked(runtime, code or runtime.cudaStreamSynchronize(memory.place), "clear memory")

    def __del__(self) -> None:
        if self.address:
            with self._memory.lock:
                # What is queued may still write there.
                self._memory.runtime.cudaStreamSynchronize(self._memory.place)
                self._free(ctypes.c_void_p(self.address))


class _CudaMark:
    def __init__(self, memory: CudaMemory) -> None:
        self._memory, self._event = memory, ctypes.c_void_p()
        create = memory.runtime.cudaEventCreateWithFlags
        code = create(ctypes.byref(self._event), ctypes.c_uint(NO_TIMING))
        _checked(memory.runtime, code, "make an event")

    def set(self) -> None:
        memory = self._memory
        with memory.lock:
            code = memory.runtime.cudaEventRecord(self._event, memory.place)
        _checked(memory.runtime, code, "record an event")

    def wait(self) -> None:
        memory = self._memory
        with memory.lock:
            code = memory.runtime.cudaEventSynchronize(self._event)
        _checked(memory.runtime, code, "compute what was asked for")

    def __del__(self) -> None:
        if self._event:
            with self._memory.lock:
                self._memory.runtime.cudaEventDestroy(self._event)


def _checked(runtime: ctypes.CDLL, code: int, what: str) -> None:
    """Raises `Gpt2rtError` for a status code of CUDA that is an error."""
    if code:
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        reason = runtime.cudaGetErrorString(code).decode()
        raise Gpt2rtError(f"CUDA could not {what}: {reason} (error {code})")


# Streams that are free again. They are not destroyed, since a session may end after its memory.
_free_streams: WeakKeyDictionary[ctypes.CDLL, list[int]] = WeakKeyDictionary()


def _stream(runtime: ctypes.CDLL, user: object) -> int:
    """The address of a stream that is free again when `user` is gone. Raises `ProviderMissing`."""
    free = _free_streams.setdefault(runtime, [])
    try:
        address = free.pop()
    except IndexError:  # there is none; and another thread may have taken the last just now
        address = _new_stream(runtime)
    weakref.finalize(user, free.append, address).atexit = False
    return address


def _new_stream(runtime: ctypes.CDLL) -> int:
    """The address of another stream. Raises `ProviderMissing`."""
    stream = ctypes.c_void_p()
    code = runtime.cudaStreamCreateWithFlags(ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING))
    try:
        _checked(runtime, code, "make a stream")
    except Gpt2rtError as error:
        raise ProviderMissing(f"{error}; `gpt2rt doctor` says what is missing") from error
    return int(stream.value or 0)


class CudaMemory:
    """The memory of CUDA device 0, by the CUDA runtime library that ONNX Runtime has loaded.

    Sessions and moves are queued on one stream, so that none has to wait for what it needs. Only
    one thread at a time may use it: an allocation, a copy or a release by another thread would
    invalidate the capture of a CUDA graph.
    """

    device = "cuda"

    def __init__(self, runtime: ctypes.CDLL | None = None) -> None:
        """`runtime` is that library (None: it is looked for). Raises `ProviderMissing`."""
        self.runtime = cuda_runtime() if runtime is None else runtime
        self.lock: Lock = RLock()
        self.stream: int | None = _stream(self.runtime, self)
        self.place = ctypes.c_void_p(self.stream)

    def allocate(self, size: int, *, host: bool = False) -> Block:
        with self.lock:
            return _CudaBlock(self, size, host)

    def copy(self, *moves: Move) -> None:
        self._move(moves, wait=True)

    def queue(self, *moves: Move) -> None:
        self._move(moves, wait=False)

    def _move(self, moves: Sequence[Move], wait: bool) -> None:
        with self.lock:
            code = 0
            for target, target_pitch, source, *rest in moves:
                places = ctypes.c_void_p(target), ctypes.c_size_t(target_pitch)
                sizes = [ctypes.c_size_t(size) for size in rest]
                code = code or self.runtime.cudaMemcpy2DAsync(
                    *places, ctypes.c_void_p(source), *sizes, MEMCPY_DEFAULT, self.place
                )
            if wait:
                code = code or self.runtime.cudaStreamSynchronize(self.place)
        _checked(self.runtime, code, f"copy {sum(move.width * move.runs for move in moves)} bytes")

    def mark(self) -> Mark:
        with self.lock:
            return _CudaMark(self)


NO_MEMORY = 2  # cudaErrorMemoryAllocation
MEMCPY_DEFAULT = 4  # cudaMemcpyDefault: the addresses determine host or device
NON_BLOCKING = 1  # cudaStreamNonBlocking: the stream does not wait for the default one
NO_TIMING = 2  # cudaEventDisableTiming
ALIGNMENT = 256  # bytes, the alignment of cudaMalloc


def size_of(port: Port, sizes: Mapping[str, int]) -> int:
    """The bytes of a port's array in a call whose letters have these sizes."""
    return math.prod(port.sized(sizes)) * np.dtype(port.dtype).itemsize


class Frame:
    """Adjacent arrays on the device and equal ones on the host, copied all at once.

    Copies are queued; whoever looks at the arrays waits for them.
    """

    def __init__(self, memory: Memory, fields: Sequence[Field]) -> None:
        self._memory = memory
        sizes = [max(1, math.prod(form)) * np.dtype(dtype).itemsize for _, form, dtype in fields]
        steps = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        self._size = sum(steps)
        self._device = memory.allocate(self._size)
        self._host = memory.allocate(self._size, host=True)
        self._copied, self._waits = memory.mark(), False
        self.addresses: dict[str, int] = {}
        self._arrays: dict[str, Array] = {}
        places = itertools.accumulate(steps, initial=0)
        for (name, form, dtype), size, offset in zip(fields, sizes, places, strict=False):
            self.addresses[name] = self._device.address + offset
            content = (ctypes.c_uint8 * size).from_address(self._host.address + offset)
            count = math.prod(form)
            self._arrays[name] = np.frombuffer(memoryview(content), dtype, count).reshape(form)

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays on the host, by their names, after the last copy."""
        if self._waits:
            self.wait()
        return self._arrays

    def wait(self) -> None:
        """Wait for the last copy."""
        self._copied.wait()
        self._waits = False

    def send(self) -> None:
        """Have all arrays copied from the host to the device."""
        self._move(self._device.address, self._host.address)

    def fetch(self) -> None:
        """Have all arrays copied from the device to the host."""
        self._move(self._host.address, self._device.address)

    def _move(self, target: int, source: int) -> None:
        self._memory.queue(Move(target, self._size, source, self._size, self._size, 1))
        self._copied.set()
        self._waits = True
