"""Measures how fast a provider can read memory: the limit of decoding.

One row times a matrix far larger than any cache, by ONNX Runtime: every number is read once and
used for one multiplication. It reads several streams a core at once, which is a quarter faster than
NumPy's reductions in as many Python threads (bench/HISTORY.md).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from statistics import median

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from gpt2rt_bench.latency import CaseResult

EXECUTION = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # a GPU reads the smaller one before it is warm
COLUMNS = 16_384
PASSES = 5


class Meter:
    """Measures one provider's bandwidth; holds a matrix of 256 MB (on a GPU 2 GB)."""

    def __init__(self, provider: str, threads: int, size: int | None = None) -> None:
        """`provider`: the short name of one of ONNX Runtime's; `size`: the matrix's, in bytes."""
        self._bytes = BYTES[provider] if size is None else size
        rows = self._bytes // 4 // COLUMNS
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(
            product(rows, COLUMNS), options, providers=[EXECUTION[provider]]
        )
        matrix = np.ones((rows, COLUMNS), np.float32)  # zeros would share one page of memory
        self._values = {
            "row": ort.OrtValue.ortvalue_from_numpy(np.ones((1, rows), np.float32), provider),
            "matrix": ort.OrtValue.ortvalue_from_numpy(matrix, provider),
        }
        self._matrix = matrix
        self._binding = self._session.io_binding()
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output("product", provider)

    def read(self) -> float:
        """Bytes per second, now: the fastest of a few passes."""
        times = []
        for _ in range(PASSES):
            began = time.perf_counter()
            self._session.run_with_iobinding(self._binding)
            times.append(time.perf_counter() - began)
        return self._bytes / min(times)


class Meters:
    """The bandwidths of all providers and numbers of threads, measured in every round.

    `speeds`: (provider, threads) -> bytes per second of each round.
    """

    def __init__(self) -> None:
        self._meters: dict[tuple[str, int], Meter] = {}
        self.speeds: defaultdict[tuple[str, int], list[float]] = defaultdict(list)

    def read(self, results: Iterable[CaseResult]) -> None:
        """Measure the providers of `results` once more; those of other libraries are left out."""
        running = [(r.subject.ready.provider, r.case.configuration.threads) for r in results]
        for key in dict.fromkeys(running):
            if key[0] in EXECUTION:
                if key not in self._meters:
                    self._meters[key] = Meter(*key)
                self.speeds[key].append(self._meters[key].read())

    def bandwidth(self, provider: str, threads: int) -> float | None:
        """Bytes per second, the median of the rounds; None where not measured."""
        speeds = self.speeds.get((provider, threads))
        return median(speeds) if speeds else None


def product(rows: int, columns: int) -> bytes:
    """A graph that multiplies a row [1, rows] by a matrix [rows, columns]."""
    values = {"row": (1, rows), "matrix": (rows, columns), "product": (1, columns)}
    row, matrix, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in values.items()
    )
    node = helper.make_node("MatMul", ["row", "matrix"], ["product"])
    graph = helper.make_graph([node], "bandwidth", [row, matrix], [out])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())
