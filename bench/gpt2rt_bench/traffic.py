"""Counts the bytes that a decode step reads, in the bundle's graph, for any precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, numpy_helper

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import GRAPH

LOOKUPS = ("Gather", "GatherBlockQuantized")  # read only the rows looked up


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes that a decode step reads.

    `weights`: once a step; `row`: for each sequence; `kv`: for each position that a sequence
    attends to.
    """

    weights: int
    row: int
    kv: int

    def step(self, batch: int, past: float) -> float:
        """Bytes of a step of `batch` sequences that attend to `past` positions each."""
        return self.weights + batch * (self.row + self.kv * past)


def traffic(bundle: Bundle, graph: str = GRAPH) -> Traffic:
    """What a decode step of the bundle reads in `graph`, the file that it runs.

    Kernels read weights as they are stored; what the bodies of the graph's functions read is
    another matter. Counted are weights and scales, lm_head, keys and values, and the rows of the
    embeddings that are looked up (all rows where another op reads them). Weights that the graph
    casts or scales count in the type after that, since ONNX Runtime does it once, when it loads
    them.
    """
    model = onnx.load(str(bundle.directory / graph), load_external_data=False)
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {value.name: value.type.tensor_type for value in found.value_info}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in found.initializer}
    sizes = {tensor.name: size(tensor) for tensor in found.initializer}
    whole: set[str] = set()
    looked_up: list[tuple[str, int]] = []
    for node in found.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weights = [name for name in node.input if name in sizes]
        if weights == list(node.input):
            (out,) = node.output
            shapes[out] = tuple(axis.dim_value for axis in known[out].shape.dim)
            width = helper.tensor_dtype_to_np_dtype(known[out].elem_type).itemsize
            sizes[out] = math.prod(shapes[out]) * width
        elif node.op_type == "EmbedInt8":
            scale, places = weights[1:]
            vocabulary = shapes[scale][0]
            looked_up += [(name, vocabulary) for name in weights[:2]]
            looked_up.append((places, shapes[places][0]))
        elif node.op_type in LOOKUPS and node.input[0] in sizes:
            axis = attributes.get("gather_axis", attributes.get("axis", 0))
            looked_up.append((node.input[0], shapes[node.input[0]][axis]))
            whole.update(weights[1:])
        else:
            whole.update(weights)
    rows = sum(sizes[name] // count for name, count in looked_up if name not in whole)
    return Traffic(sum(sizes[name] for name in whole), rows, _kv(bundle, found))


def size(tensor: TensorProto) -> int:
    """Bytes of an initializer, inside the graph's file or beside it."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    return int(place["length"]) if place else int(numpy_helper.to_array(tensor).nbytes)


def _kv(bundle: Bundle, graph: onnx.GraphProto) -> int:
    """Bytes of the keys and values of one position, in every layer."""
    hparams = bundle.manifest.hparams
    pasts = [value for value in graph.input if value.name.startswith("past")]
    (kind,) = {value.type.tensor_type.elem_type for value in pasts}
    fused = bundle.manifest.graph == "fused"
    width = hparams.n_head * (hparams.kv_width if fused else hparams.head_width)
    itemsize = helper.tensor_dtype_to_np_dtype(kind).itemsize
    return math.prod((hparams.n_layer, 2, width, itemsize))
