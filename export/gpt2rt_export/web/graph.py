"""Makes a bundle's graph and weights anew for onnxruntime-web.

The nodes stay; functions get other bodies, and matrices the layout that these read. Keys and values
are float32, since WebAssembly computes in nothing narrower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import fused
from gpt2rt.bundles.manifest import GRAPH, WEIGHTS
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt_export.onnx_graph.body import DOMAIN
from gpt2rt_export.onnx_graph.fuse import declared
from gpt2rt_export.onnx_graph.rounding import ZERO_POINT
from gpt2rt_export.onnx_graph.weights import ALIGNMENT, Array, external
from gpt2rt_export.web.functions import web_functions

Sizes = tuple[int, ...]

INT8 = "/int8"  # the end of a matrix' name
TILE = 32  # columns of a matrix that lie together; fewer where they do not divide it
PADDED = ("NormHead", "Embed")  # what reads the matrix of the lm_head, whose N may be any
LARGEST = 1 << 30  # bytes of weights: a page has 4 GB, in which they are three times for a moment
WIDENED = {"fp16": 2}  # how much larger they are in the page
LEFT_OUT = {
    "int4": "has no fast product of 4-bit weights; export the model with --int8",
}


def check(bundle: Bundle) -> None:
    """Raises `InvalidSetting` for a bundle that cannot run in a browser."""
    manifest = bundle.manifest
    if why := LEFT_OUT.get(manifest.precision):
        raise InvalidSetting(f"{bundle.name}: WebAssembly {why}")
    if manifest.graph != "fused":
        raise InvalidSetting(f"{bundle.name}: not a graph for the browser; export with --int8")
    size = manifest.files[WEIGHTS].bytes * WIDENED.get(manifest.precision, 1)
    if size > LARGEST:
        raise InvalidSetting(
            f"{bundle.name}: {size / 1e6:,.0f} MB of weights, and a page holds "
            f"{LARGEST / 1e6:,.0f} MB; export it with --int8, or take a smaller model"
        )


def write(bundle: Bundle, directory: Path) -> int:
    """Write the graph and its weights into a directory; returns the columns of the logits.

    Logits beyond the vocabulary are padding. Raises `BadBundle` for a graph that cannot be read.
    """
    place, hparams = bundle.directory / GRAPH, bundle.manifest.hparams
    try:
        model = onnx.load(place, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BadBundle(f"{place}: no ONNX graph ({error}); {bundle.remedy}") from None
    nodes = model.graph.node
    functions = web_functions(hparams, bundle.manifest.kv)
    del model.functions[:]
    called = sorted({node.op_type for node in nodes if node.domain == DOMAIN})
    model.functions.extend(functions[name] for name in called)
    sizes = _sizes(nodes, hparams)
    tiles = sizes.get(_head(nodes))
    columns = tiles[0] * tiles[2] if tiles else hparams.n_vocab
    _declare(model.graph, hparams, columns)
    with (directory / WEIGHTS).open("wb") as file:
        tensors = [
            _written(
                file, value.name, _laid(numpy_helper.to_array(value, str(bundle.directory)), size)
            )
            for value in model.graph.initializer
            for size in [sizes.get(value.name)]
        ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    onnx.save(model, directory / GRAPH)
    return columns


def _head(nodes: Iterable[onnx.NodeProto]) -> str:
    """The matrix of the lm_head."""
    return next(str(node.input[3]) for node in nodes if node.op_type.startswith("NormHead"))


def _sizes(nodes: Iterable[onnx.NodeProto], hparams: HParams) -> dict[str, Sizes]:
    """The tiles [N/S,K,S] of each matrix of 8-bit numbers, and [N/S,1,S] of its scales."""
    found: dict[str, Sizes] = {}
    for node in nodes:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        for weights, scales in pairwise(node.input):
            if weights.endswith(INT8):
                k, n = given.get("K", hparams.n_embd), given.get("N", hparams.n_vocab)
                n += -n % TILE if node.op_type.startswith(PADDED) else 0
                tile = math.gcd(n, TILE)
                found[weights], found[scales] = (n // tile, k, tile), (n // tile, 1, tile)
    return found


def _laid(stored: Array, sizes: Sizes | None) -> Array:
    """A tensor as the browser's graph reads it: as it is, or in tiles of these sizes.

    A matrix comes in groups [N/16,K/4,16,4]. It is padded with what stands for zero.
    """
    if sizes is None:
        return stored
    count, k, tile = sizes
    if stored.ndim == 1:
        return np.pad(stored, (0, count * tile - len(stored))).reshape(sizes)
    rows = stored.transpose(0, 2, 1, 3).reshape(stored.shape[0] * stored.shape[2], -1)  # [N,K]
    rows = rows[: count * tile, :k]
    padding = ((0, count * tile - len(rows)), (0, 0))
    padded = np.pad(rows, padding, constant_values=ZERO_POINT)
    return padded.reshape(count, tile, k).transpose(0, 2, 1)


def _written(file: IO[bytes], name: str, array: Array) -> TensorProto:
    """Append an array to the file of weights; returns the tensor that refers to it."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    tensor = external(name, array, WEIGHTS, file.tell())
    file.write(np.ascontiguousarray(array).data)
    return tensor


def _declare(graph: onnx.GraphProto, hparams: HParams, columns: int) -> None:
    """Give the graph the inputs and outputs that it has in the browser."""
    interface = fused(hparams, "float32")
    (logits,) = interface.results
    padded = replace(interface, results=(replace(logits, shape=("R", columns)),))
    for values, ports in ((graph.input, padded.inputs), (graph.output, padded.outputs)):
        del values[:]
        values.extend(declared(ports))
