"""Makes a bundle's graph and weights anew for onnxruntime-web, for each device that it has there.

The nodes stay; functions get other bodies, and matrices the layout that these read. Keys and values
are float32, since WebAssembly computes in nothing narrower, and not every GPU does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITIONS, SLOTS, TOTAL, Interface, Port, fused
from gpt2rt.bundles.manifest import GRAPH, WEIGHTS
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt_export.onnx_graph.body import DOMAIN
from gpt2rt_export.onnx_graph.fuse import declared
from gpt2rt_export.onnx_graph.rounding import BLOCK
from gpt2rt_export.onnx_graph.weights import ALIGNMENT, external
from gpt2rt_export.web import wasm, webgpu
from gpt2rt_export.web.layout import INT4, INT8, TILE, Matrix

WASM, WEBGPU = "wasm", "webgpu"  # the devices of a browser
GRAPHS = {WASM: GRAPH, WEBGPU: "webgpu.onnx"}
# The product of the lm_head, whose matrix may be the embedding's and may have any N.
PADDED = ("NormHead", "Embed")
ROWS = "/rows"  # the end of the name of the embedding's matrix where it is read by the row
LARGEST = 1 << 30  # bytes of weights: a page has 4 GB, in which they are three times for a moment
WIDENED = {"fp16": 2}  # how much larger they are in the page
# How many tokens the only slot has, those of the call included, minus one; and their number.
LENGTHS = Port("lengths", "int32", (1,))


@dataclass(frozen=True, slots=True)
class Written:
    """What the page has to know of its graphs.

    `graphs`: the file of each device; `columns` of the logits, of which those beyond the vocabulary
    are padding; `tiles`: [offset in the file of weights, N/S, K, S] of each matrix in tiles.
    """

    graphs: Mapping[str, str]
    columns: int
    tiles: list[list[int]]


def check(bundle: Bundle) -> None:
    """Raises `InvalidSetting` for a bundle that cannot run in a browser."""
    manifest = bundle.manifest
    if manifest.graph != "fused" or not devices(bundle):
        raise InvalidSetting(f"{bundle.name}: not a graph for the browser; export with --int8")
    size = manifest.files[WEIGHTS].bytes * WIDENED.get(manifest.precision, 1)
    if size > LARGEST:
        raise InvalidSetting(
            f"{bundle.name}: {size / 1e6:,.0f} MB of weights, and a page holds "
            f"{LARGEST / 1e6:,.0f} MB; export it with --int8, or take a smaller model"
        )


def devices(bundle: Bundle) -> list[str]:
    """The devices of a browser that run a bundle.

    WebGPU has fast products of whole numbers, in whole blocks; WebAssembly none of 4 bits.
    """
    hparams, precision = bundle.manifest.hparams, bundle.manifest.precision
    inner = (hparams.n_embd, hparams.n_head * hparams.kv_width)
    whole = not any(size % BLOCK for size in inner)
    found = {WASM: precision != "int4", WEBGPU: precision in ("int8", "int4") and whole}
    return [device for device, runs in found.items() if runs]


def write(bundle: Bundle, directory: Path) -> Written:
    """Write the graphs and their weights into a directory.

    Raises `BadBundle` for a graph that cannot be read.
    """
    model, hparams, chosen = _loaded(bundle), bundle.manifest.hparams, devices(bundle)
    matrices = _matrices(model.graph.node, hparams)
    head = matrices.get(_head(model.graph.node))
    columns = head.n if head else hparams.n_vocab
    _rewire(model.graph, matrices)
    _declare(model.graph, hparams, columns)
    with (directory / WEIGHTS).open("wb") as file:
        tensors = [*_weights(file, bundle, model, matrices, tiled=WASM in chosen)]
    if WASM in chosen:
        functions = wasm.functions(hparams, bundle.manifest.kv)
        onnx.save(_made(model, tensors, functions), directory / GRAPHS[WASM])
    if WEBGPU in chosen:
        blocks = _in_blocks(model, tensors, matrices)
        onnx.save(_made(model, blocks, webgpu.functions(hparams)), directory / GRAPHS[WEBGPU])
    tiles = [
        _place(tensor)
        for tensor in tensors
        if tensor.name.endswith(INT8) and chosen == [WASM, WEBGPU]
    ]
    return Written({device: GRAPHS[device] for device in chosen}, columns, tiles)


def _loaded(bundle: Bundle) -> onnx.ModelProto:
    place = bundle.directory / GRAPH
    try:
        return onnx.load(place, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BadBundle(f"{place}: no ONNX graph ({error}); {bundle.remedy}") from None


def _head(nodes: Iterable[onnx.NodeProto]) -> str:
    """The matrix of the lm_head."""
    return next(str(node.input[3]) for node in nodes if node.op_type.startswith("NormHead"))


def _matrices(nodes: Iterable[onnx.NodeProto], hparams: HParams) -> dict[str, Matrix]:
    """Each matrix of whole numbers, and each tensor that belongs to one, by its name."""
    found: dict[str, Matrix] = {}
    for node in nodes:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        k, n = given.get("K", hparams.n_embd), given.get("N", hparams.n_vocab)
        n += -n % TILE if node.op_type.startswith(PADDED) else 0
        for weights, scales in pairwise(node.input):
            if weights.endswith((INT8, INT4)):
                parts = [weights, scales, weights.removesuffix(INT4) + "/zero"]
                found |= {part: Matrix(part, k, n) for part in parts}
    return found


def _rewire(graph: onnx.GraphProto, matrices: Mapping[str, Matrix]) -> None:
    """Give every product its padded N, and attention the lengths instead of slots and positions."""
    lengths = {SLOTS.name: LENGTHS.name, POSITIONS.name: TOTAL.name}
    for node in graph.node:
        padded = next((matrices[name].n for name in node.input if name in matrices), None)
        for attribute in node.attribute:
            if attribute.name == "N" and padded is not None:
                attribute.i = padded
        if node.op_type == "Attention":
            node.input[:] = [lengths.get(name, name) for name in node.input]


def _declare(graph: onnx.GraphProto, hparams: HParams, columns: int) -> None:
    """Give the graph the inputs and outputs that it has in the browser."""
    known = fused(hparams, "float32")
    kept = tuple(port for port in known.arguments if port != SLOTS)
    (logits,) = known.results
    wide = replace(logits, shape=("R", columns))
    interface = Interface((*kept, LENGTHS, TOTAL), (wide,), known.past, known.present)
    for values, ports in ((graph.input, interface.inputs), (graph.output, interface.outputs)):
        del values[:]
        values.extend(declared(ports))


def _made(
    model: onnx.ModelProto,
    tensors: Iterable[TensorProto],
    functions: Mapping[str, onnx.FunctionProto],
) -> onnx.ModelProto:
    """The model with other weights, and other bodies of its ops."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.functions[:], made.graph.initializer[:]
    called = sorted({node.op_type for node in made.graph.node if node.domain == DOMAIN})
    made.functions.extend(functions[name] for name in called)
    made.graph.initializer.extend(tensors)
    return made


def _weights(
    file: IO[bytes],
    bundle: Bundle,
    model: onnx.ModelProto,
    matrices: Mapping[str, Matrix],
    *,
    tiled: bool,
) -> Iterator[TensorProto]:
    """Write every tensor as it is laid in the page; yields those that refer to the file."""
    for value in model.graph.initializer:
        array = numpy_helper.to_array(value, str(bundle.directory))
        if matrix := matrices.get(value.name):
            array = matrix.tiled(array) if tiled else matrix.rows(array)
        file.write(bytes(-file.tell() % ALIGNMENT))
        yield external(value.name, array, WEIGHTS, file.tell())
        file.write(np.ascontiguousarray(array).data)


def _in_blocks(
    model: onnx.ModelProto, tensors: Iterable[TensorProto], matrices: Mapping[str, Matrix]
) -> list[TensorProto]:
    """The tensors as WebGPU's ops read them; the embedding reads its matrix by the row."""
    (embed,) = (node for node in model.graph.node if node.op_type.startswith("Embed"))
    embedding, embed.input[2] = embed.input[2], embed.input[2] + ROWS
    used = {name for node in model.graph.node for name in node.input}
    found = []
    for tensor in tensors:
        matrix = matrices.get(tensor.name)
        if tensor.name == embedding and matrix:
            found.append(_seen(tensor, embedding + ROWS, (matrix.n, matrix.k)))
        if tensor.name in used:
            sizes = matrix.blocks(prod(tensor.dims)) if matrix else tensor.dims
            found.append(_seen(tensor, tensor.name, sizes))
    return found


def _seen(tensor: TensorProto, name: str, sizes: Iterable[int]) -> TensorProto:
    """The same stored numbers, by another name and with other sizes."""
    seen = TensorProto()
    seen.CopyFrom(tensor)
    seen.name = name
    seen.dims[:] = sizes
    return seen


def _place(tensor: TensorProto) -> list[int]:
    offset = next(entry.value for entry in tensor.external_data if entry.key == "offset")
    return [int(offset), *tensor.dims]
