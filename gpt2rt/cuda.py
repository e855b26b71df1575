"""The fused graph on a CUDA device: keys, values, inputs and logits stay there between calls.

A decode step is bound once to fixed addresses, so that ONNX Runtime can replay it as a CUDA graph.
Of its logits only what the sampler asks for comes back (`gpt2rt.selection`).

What the slots ask of a device is a `Memory`; the one over ordinary memory lets the same code run on
the CPU provider, where the tests hold it against the other slots.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundle import SHORTLIST, Tensors
from gpt2rt.errors import Gpt2rtError, ProviderMissing
from gpt2rt.hparams import HParams
from gpt2rt.kvcache import share
from gpt2rt.selection import Draw, Selected
from gpt2rt.session import KeysValues, Logits

if TYPE_CHECKING:
    import onnxruntime as ort

Array = NDArray[Any]


class Block(Protocol):
    """Bytes of a memory, given back when nobody holds this any more."""

    address: int


class Memory(Protocol):
    """Memory that a provider computes in."""

    device: str  # as ONNX Runtime calls it

    def allocate(self, size: int) -> Block: ...

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

    def allocate(self, size: int) -> Block:
        return _HostBlock(size)

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int
    ) -> None:
        for run in range(count):
            ctypes.memmove(target + run * target_pitch, source + run * source_pitch, width)


class _CudaBlock:
    def __init__(self, runtime: ctypes.CDLL, size: int) -> None:
        self.address = 0
        self._runtime = runtime
        address = ctypes.c_void_p()
        if runtime.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)):
            raise Gpt2rtError(
                f"no room for {size / 1e6:,.0f} MB on the CUDA device; generate fewer side by side"
            )
        self.address = int(address.value or 0)
        runtime.cudaMemset(address, 0, ctypes.c_size_t(size))

    def __del__(self) -> None:
        if self.address:
            self._runtime.cudaFree(ctypes.c_void_p(self.address))


class CudaMemory:
    """The memory of CUDA device 0, by CUDA's runtime library, which ONNX Runtime has loaded."""

    device = "cuda"

    def __init__(self) -> None:
        self._runtime = cuda_runtime()

    def allocate(self, size: int) -> Block:
        return _CudaBlock(self._runtime, size)

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int
    ) -> None:
        sizes = [ctypes.c_size_t(n) for n in (source_pitch, width, count)]
        places = ctypes.c_void_p(target), ctypes.c_size_t(target_pitch), ctypes.c_void_p(source)
        code = self._runtime.cudaMemcpy2D(*places, *sizes, WHEREVER)
        if code:
            raise Gpt2rtError(f"CUDA could not copy {width * count} bytes (error {code})")


WHEREVER = 4  # cudaMemcpyDefault: the addresses tell on which side they are
VERSIONS = (13, 12)


def cuda_runtime() -> ctypes.CDLL:
    """CUDA's runtime library, of a version that ONNX Runtime is built for."""
    name = "cudart64_{}.dll" if os.name == "nt" else "libcudart.so.{}"
    for version in VERSIONS:
        try:
            return ctypes.CDLL(name.format(version))
        except OSError:
            continue
    raise ProviderMissing(
        f"CUDA's runtime library ({name.format('12')} or a newer one) cannot be loaded; "
        'install it: pip install "gpt2rt[cuda]"'
    )


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
    ) -> None:
        """`cache`: what the names of keys and values are bound to, as shapes and addresses."""
        self._session, self._memory = session, memory
        self._binding = session.io_binding()
        self._blocks: dict[str, Block] = {}
        self._shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        best = min(SHORTLIST, hparams.n_vocab)
        inputs: list[tuple[str, tuple[int, ...], Any]] = [
            (Tensors.X, shape, np.int32),
            (Tensors.POSITION, shape, np.int32),
            (Tensors.ROWS, (rows,), np.int32),
            (Tensors.SEQLENS, shape[:1], np.int32),
            (Tensors.HEAT, (rows,), np.float32),
            (Tensors.UNIFORM, (rows,), np.float32),
        ]
        outputs: list[tuple[str, tuple[int, ...], Any]] = [
            (Tensors.LOGITS, (rows, hparams.n_vocab), np.float32),
            (Tensors.BEST_LOGITS, (rows, best), np.float32),
            (Tensors.BEST, (rows, best), np.int64),
            (Tensors.MASS, (rows,), np.float32),
            (Tensors.DRAWN, (rows,), np.int64),
        ]
        for name, form, dtype in inputs:
            self._bind(self._binding.bind_input, name, form, dtype)
        for name, form, dtype in outputs:
            self._bind(self._binding.bind_output, name, form, dtype)
        self._total = np.zeros((), np.int32)  # read on the host
        self._shared = share(self._total)
        self._binding.bind_ortvalue_input(Tensors.TOTAL, self._shared)
        for layer in range(hparams.n_layer):
            for past, present in zip(Tensors.past(layer), Tensors.present(layer), strict=True):
                place = memory.device, 0, np.float16, *cache[past]
                self._binding.bind_input(past, *place)
                self._binding.bind_output(present, *place)

    def _bind(
        self, bind: Callable[..., None], name: str, form: tuple[int, ...], dtype: Any
    ) -> None:
        size = max(1, int(np.prod(form))) * np.dtype(dtype).itemsize
        self._blocks[name] = self._memory.allocate(size)
        self._shapes[name] = form, dtype
        bind(name, self._memory.device, 0, dtype, form, self._blocks[name].address)

    def put(self, name: str, values: Any) -> None:
        """Write an input."""
        form, dtype = self._shapes[name]
        array = np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype), form))
        size = array.nbytes
        self._memory.copy(self._blocks[name].address, size, array.ctypes.data, size, size, 1)

    def get(self, name: str, row: int | None = None) -> Array:
        """A copy of an output, or of one row of it."""
        form, dtype = self._shapes[name]
        array = np.empty(form if row is None else form[1:], dtype)
        size = array.nbytes
        source = self._blocks[name].address + (row or 0) * size
        self._memory.copy(array.ctypes.data, size, source, size, size, 1)
        return array

    def run(self, total: int, graph: int | None = None) -> None:
        """`graph` is the number of the CUDA graph that replays this call; None: none does."""
        self._total[...] = total
        if self._memory.device != "cuda":
            self._session.run_with_iobinding(self._binding)
            return
        import onnxruntime as ort

        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1" if graph is None else str(graph))
        self._session.run_with_iobinding(self._binding, options)


class CudaSlots:
    """Slots whose keys and values lie on the device, in float16."""

    def __init__(
        self, session: ort.InferenceSession, hparams: HParams, count: int, memory: Memory
    ) -> None:
        self.count = count
        self._session, self._hparams, self._memory = session, hparams, memory
        self._pitch = hparams.n_ctx * hparams.kv_width * np.dtype(np.float16).itemsize  # of a head
        self._slot = hparams.n_head * self._pitch
        names = [name for layer in range(hparams.n_layer) for name in Tensors.past(layer)]
        self._cache = {name: memory.allocate(count * self._slot) for name in names}
        self._steps: dict[int, Call] = {}

    def _call(self, first: int, shape: tuple[int, int], rows: int) -> Call:
        """A call for the slots from `first` on, whose keys and values it reads and writes."""
        h = self._hparams
        form = (shape[0], h.n_head, h.n_ctx, h.kv_width)
        cache = {name: (form, self._at(name, first, 0)) for name in self._cache}
        return Call(self._session, h, self._memory, shape, rows, cache)

    def _at(self, name: str, slot: int, position: int) -> int:
        """Where a position of a slot's first head lies."""
        within = position * self._pitch // self._hparams.n_ctx
        return self._cache[name].address + slot * self._slot + within

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
        call.put(Tensors.X, tokens)
        call.put(Tensors.POSITION, np.arange(length, end))
        call.put(Tensors.ROWS, rows)
        call.put(Tensors.SEQLENS, end - 1)
        call.put(Tensors.HEAT, 1)
        call.put(Tensors.UNIFORM, 0)
        call.run(end)
        logits: Logits = call.get(Tensors.LOGITS)
        return logits

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Selected:
        batch = len(tokens)
        call = self._steps.get(batch)
        if call is None:
            call = self._steps[batch] = self._call(0, (batch, 1), batch)
            call.put(Tensors.ROWS, np.arange(batch))
        chosen = list(draws) or [Draw()] * batch
        call.put(Tensors.X, np.asarray(tokens)[:, None])
        call.put(Tensors.POSITION, np.asarray(lengths)[:, None])
        call.put(Tensors.SEQLENS, lengths)
        call.put(Tensors.HEAT, [draw.heat for draw in chosen])
        call.put(Tensors.UNIFORM, [draw.uniform for draw in chosen])
        # A captured graph keeps the numbers it saw on the host: attention looks no further than
        # `seqlens_k`, so the total may be the most that fits.
        total = self._hparams.n_ctx if self._memory.device == "cuda" else max(lengths) + 1
        call.run(total, graph=batch)
        best, logits, mass, drawn = (
            call.get(name)
            for name in (Tensors.BEST, Tensors.BEST_LOGITS, Tensors.MASS, Tensors.DRAWN)
        )

        def fetch(row: int) -> Logits:
            return np.asarray(call.get(Tensors.LOGITS, row), np.float32)

        return Selected(best, logits, mass, drawn, chosen, self._hparams.n_vocab, fetch)

    def copy(self, source: int, target: int, length: int) -> None:
        width = length * self._pitch // self._hparams.n_ctx
        for name in self._cache:
            places = self._at(name, target, 0), self._pitch, self._at(name, source, 0), self._pitch
            self._memory.copy(*places, width, self._hparams.n_head)

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        h = self._hparams
        kv = np.empty((h.n_layer, 2, h.n_head, end - start, h.kv_width), np.float16)
        for layer in range(h.n_layer):
            for name, into in zip(Tensors.past(layer), kv[layer], strict=True):
                width = into[0].nbytes
                source = self._at(name, slot, start), self._pitch
                self._memory.copy(into.ctypes.data, width, *source, width, h.n_head)
        return kv

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        for layer, pair in enumerate(np.ascontiguousarray(kv)):
            for name, values in zip(Tensors.past(layer), pair, strict=True):
                width = values[0].nbytes
                target = self._at(name, slot, start), self._pitch
                self._memory.copy(*target, values.ctypes.data, width, width, self._hparams.n_head)
