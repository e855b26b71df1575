"""Memory of an execution provider: a CUDA device's, or ordinary memory with the same interface."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.interface import Port
from gpt2rt.engine.providers import cuda_runtime
from gpt2rt.errors import Gpt2rtError, OutOfMemory

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


class Memory(Protocol):
    """The memory of an execution provider."""

    device: str  # ONNX Runtime's name for it
    lock: Lock  # held while the device is used

    def allocate(self, size: int, *, host: bool = False) -> Block:
        """Allocate zeroed memory on the device, or with `host` on the host, fastest to copy."""

    def copy(self, *moves: Move) -> None:
        """Make moves between any addresses of device and host, and wait until all are made."""


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

    def copy(self, *moves: Move) -> None:
        for move in moves:
            for run in range(move.runs):
                target = move.target + run * move.target_pitch
                ctypes.memmove(target, move.source + run * move.source_pitch, move.width)


class _CudaBlock:
    def __init__(self, runtime: ctypes.CDLL, lock: Lock, size: int, host: bool) -> None:
        self.address = 0
        self._lock = lock
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
        _checked(runtime, runtime.cudaMemset(address, 0, ctypes.c_size_t(size)), "clear memory")

    def __del__(self) -> None:
        if self.address:
            with self._lock:
                self._free(ctypes.c_void_p(self.address))


def _checked(runtime: ctypes.CDLL, code: int, what: str) -> None:
    """Raises `Gpt2rtError` for a status code of CUDA that is an error."""
    if code:
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        reason = runtime.cudaGetErrorString(code).decode()
        raise Gpt2rtError(f"CUDA could not {what}: {reason} (error {code})")


class CudaMemory:
    """The memory of CUDA device 0, by the CUDA runtime library that ONNX Runtime has loaded.

    Only one thread at a time may use it: an allocation, a copy or a release by another thread would
    invalidate the capture of a CUDA graph.
    """

    device = "cuda"

    def __init__(self, runtime: ctypes.CDLL | None = None) -> None:
        """`runtime` is that library (None: it is looked for). Raises `ProviderMissing`."""
        self._runtime = cuda_runtime() if runtime is None else runtime
        self.lock: Lock = RLock()

    def allocate(self, size: int, *, host: bool = False) -> Block:
        with self.lock:
            return _CudaBlock(self._runtime, self.lock, size, host)

    def copy(self, *moves: Move) -> None:
        with self.lock:
            code = 0
            for target, target_pitch, source, *rest in moves:
                places = ctypes.c_void_p(target), ctypes.c_size_t(target_pitch)
                sizes = [ctypes.c_size_t(size) for size in rest]
                code = code or self._runtime.cudaMemcpy2D(
                    *places, ctypes.c_void_p(source), *sizes, MEMCPY_DEFAULT
                )
            # A copy that is not to the host may return before it is complete, and ONNX Runtime's
            # stream does not wait for it.
            code = code or self._runtime.cudaStreamSynchronize(None)
        _checked(self._runtime, code, f"copy {sum(move.width * move.runs for move in moves)} bytes")


NO_MEMORY = 2  # cudaErrorMemoryAllocation
MEMCPY_DEFAULT = 4  # cudaMemcpyDefault: the addresses determine host or device
ALIGNMENT = 256  # bytes, the alignment of cudaMalloc


def size_of(port: Port, sizes: Mapping[str, int]) -> int:
    """The bytes of a port's array in a call whose letters have these sizes."""
    return math.prod(port.sized(sizes)) * np.dtype(port.dtype).itemsize


class Frame:
    """Adjacent arrays on the device and equal ones on the host, copied all at once."""

    def __init__(self, memory: Memory, fields: Sequence[Field]) -> None:
        self._memory = memory
        sizes = [max(1, math.prod(form)) * np.dtype(dtype).itemsize for _, form, dtype in fields]
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
            count = math.prod(form)
            self.arrays[name] = np.frombuffer(memoryview(content), dtype, count).reshape(form)

    def send(self) -> None:
        """Copy all arrays from the host to the device."""
        self._move(self._device.address, self._host.address)

    def fetch(self) -> None:
        """Copy all arrays from the device to the host."""
        self._move(self._host.address, self._device.address)

    def _move(self, target: int, source: int) -> None:
        self._memory.copy(Move(target, self._size, source, self._size, self._size, 1))
