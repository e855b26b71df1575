"""A call of the CUDA graph, whose inputs and outputs lie on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import INVERSE_TEMPERATURE, TOTAL, UNIFORM, Port, cuda
from gpt2rt.engine.cuda_memory import Array, Frame, Memory
from gpt2rt.engine.kvcache import share
from gpt2rt.engine.session import run_failure
from gpt2rt.engine.slots import Logits
from gpt2rt.errors import Gpt2rtError, OutOfMemory
from gpt2rt.sampling.selection import Draw

if TYPE_CHECKING:
    import onnxruntime as ort


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

    def draw(self, rows: Sequence[int], draws: Sequence[Draw]) -> None:
        """Set how the tokens of these rows are drawn."""
        for name, values in (
            (INVERSE_TEMPERATURE.name, [draw.inverse_temperature for draw in draws]),
            (UNIFORM.name, [draw.uniform for draw in draws]),
        ):
            self.inputs[name][...] = 0
            self.inputs[name][list(rows)] = values

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
