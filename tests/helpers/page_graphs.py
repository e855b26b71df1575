"""Runs the graphs of the page for the browser in Python, by ONNX Runtime, which has their ops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gpt2rt.bundles.bundle import Bundle
from gpt2rt_export.web import graph


class Page:
    """What the page does with the graph of a device, in Python."""

    def __init__(self, bundle: Bundle, place: Path, device: str = "wasm") -> None:
        self.hparams = bundle.manifest.hparams
        written = graph.write(bundle, place)
        self.columns = written.columns
        if device == "webgpu":
            make_rows(place / "weights.bin", written.tiles)
        self.session = ort.InferenceSession(place / written.graphs[device])
        shape = (1, self.hparams.n_head, self.hparams.n_ctx, self.hparams.kv_width)
        names = [x.name for x in self.session.get_inputs() if x.name.startswith("past")]
        self.past = {name: np.full(shape, 3, np.float32) for name in names}  # what was there before
        self.length = 0

    def read(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits after each of further tokens."""
        numbers = np.arange(len(ids), dtype=np.int32)
        total = self.length + len(ids)
        feeds: dict[str, Any] = {
            "tokens": np.array(ids, np.int32),
            "positions": numbers + np.int32(self.length),
            "rows": numbers,
            "lengths": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        logits, *present = self.session.run(None, feeds | self.past)
        self.past = dict(zip(self.past, present, strict=True))
        self.length += len(ids)
        return np.asarray(logits[:, : self.hparams.n_vocab], np.float32)


def make_rows(weights: Path, tiles: list[list[int]]) -> None:
    """Turn the tiles [count,K,width] at some offsets of a file into rows."""
    data = np.fromfile(weights, np.uint8)
    for offset, *sizes in tiles:
        part = slice(offset, offset + math.prod(sizes))
        data[part] = data[part].reshape(sizes).transpose(0, 2, 1).ravel()
    data.tofile(weights)


def logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide
