"""A call of a graph whose inputs and outputs lie on the device."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2rt.bundles.interface import Interface, Port
from gpt2rt.engine.cuda.memory import Array, Frame, Memory
from gpt2rt.engine.kvcache import share
from gpt2rt.engine.session import run_failure
from gpt2rt.errors import BadBundle, Gpt2rtError, OutOfMemory

if TYPE_CHECKING:
    import onnxruntime as ort

NUMBERS = itertools.count(1)  # of CUDA graphs, unique across sessions


class Captures:
    """Gives calls the numbers of the CUDA graphs that replay them; none once a capture failed.

    `failure` says why it did (None: none did); then calls wait for their ends, too.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    def number(self) -> int | None:
        """The number of another CUDA graph; None: the call is not to be captured."""
        return next(NUMBERS) if self.failure is None else None


class Call:
    """A call of a graph with fixed shapes, whose arrays on the device are bound once.

    `graph` is the number of the CUDA graph that replays it from its next run on, which captures it;
    None: it is not replayed.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        memory: Memory,
        captures: Captures,
        sizes: Mapping[str, int],
    ) -> None:
        """`sizes` are those of the letters in the shapes of the graph's ports."""
        self.graph: int | None = None
        self.sizes = sizes
        self._session, self._memory, self._captures = session, memory, captures
        self._binding = session.io_binding()
        self._held: list[object] = []
        self._options: dict[tuple[int | None, bool], ort.RunOptions] = {}

    def capture(self) -> None:
        """Replay it as a CUDA graph from its next run on, unless a capture failed."""
        if self.graph is None:
            self.graph = self._captures.number()

    def frame(self, ports: Sequence[Port]) -> Frame:
        """Arrays for ports, adjacent on the device and equal ones on the host."""
        return Frame(self._memory, [(p.name, p.sized(self.sizes), p.dtype) for p in ports])

    def read(self, port: Port, address: int) -> None:
        """Let the input `port` be what lies on the device at `address`."""
        self._binding.bind_input(port.name, *self._place(port, address))

    def write(self, port: Port, address: int) -> None:
        """Let the output `port` be written to the device at `address`."""
        self._binding.bind_output(port.name, *self._place(port, address))

    def read_host(self, port: Port, array: Array) -> None:
        """Let the input `port` be an array in the memory of the host."""
        value = share(array)
        self._held.append((array, value))
        self._binding.bind_ortvalue_input(port.name, value)

    def in_place(self, graph: Interface, cache: Mapping[str, int]) -> None:
        """Let keys and values be read and written where they lie, at addresses by their names."""
        for past, present in zip(graph.past, graph.present, strict=True):
            for before, after in zip(past, present, strict=True):
                self.read(before, cache[before.name])
                self.write(after, cache[before.name])

    def _place(self, port: Port, address: int) -> tuple[Any, ...]:
        kind = np.dtype(port.dtype).type
        return self._memory.device, 0, kind, port.sized(self.sizes), address

    def run(self) -> None:
        """Queue a run of the graph, or its replay. Raises `OutOfMemory`, `BadBundle`.

        Where a capture fails, this call runs without from then on, and no other is captured.
        """
        try:
            self._run(self.graph)
        except (OutOfMemory, BadBundle) as error:
            if self.graph is None:
                raise
            self._run(None)
            self.graph, self._captures.failure = None, str(error)

    def _run(self, graph: int | None) -> None:
        how = graph, self._captures.failure is not None
        if how not in self._options:
            self._options[how] = _options(*how)
        try:
            with self._memory.lock:
                self._session.run_with_iobinding(self._binding, self._options[how])
        except Gpt2rtError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            if "Failed to allocate memory" in str(error):
                raise OutOfMemory(
                    "no room on the CUDA device for what the graph computes; "
                    "generate fewer side by side"
                ) from error
            raise run_failure(error) from error


def _options(graph: int | None, waits: bool) -> ort.RunOptions:
    """The options of runs that replay a CUDA graph by its number (None: of others), and may wait
    for their ends.

    Replays by an ONNX Runtime from before 2026 wait all the same.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(-1 if graph is None else graph))
    queued = "0" if waits else "1"
    options.add_run_config_entry("disable_synchronize_execution_providers", queued)
    return options
