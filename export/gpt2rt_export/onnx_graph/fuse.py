"""Makes the fused graph of the standard one, by ONNX Runtime's own ops for its named parts.

No pattern is matched. A fused node is emitted with a named cut of `graph.py` as its output, and a
walk back from the new outputs keeps the nodes that they need; the rest of the converted graph, the
combined `past` included, is left out. The precisions differ in three products with big weights,
which the given `Arithmetic` emits (see `quantize.py`).

Inside, activations are flat: [M,D] with M = B*S, the rows of a batch one after another, so that a
row's computation does not depend on the others. Only attention has [B,S,...].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    POSITION,
    ROWS,
    Interface,
    Port,
    X,
    fused,
    logits,
)
from gpt2rt.errors import Gpt2rtError
from gpt2rt_export.onnx_graph.builder import MICROSOFT, Builder
from gpt2rt_export.onnx_graph.quantize import ZERO_POINT, Arithmetic
from gpt2rt_export.onnx_graph.weights import Weight

Values = list[onnx.ValueInfoProto]

OPSET = 21  # the first whose QuantizeLinear takes blocks; what tf2onnx wrote means the same in it
IR_VERSION = 10  # the newest that ONNX Runtime 1.20 reads


def cut(scope: str) -> str:
    """The name of the tensor that the part `scope` of `graph.py` results in."""
    return f"{scope}/out:0"


def fuse(
    standard: onnx.ModelProto, hparams: HParams, arithmetic: Arithmetic
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The fused graph, still without weights, and the weights that it needs.

    Its inputs and outputs are those of `gpt2rt.bundles.interface.fused`. Raises `Gpt2rtError`
    where the standard graph lacks a named cut.
    """
    builder = Builder(hparams)
    embed(builder, arithmetic)
    x = cut("embed")
    for i in range(hparams.n_layer):
        block(builder, x, i, arithmetic)
        x = cut(f"h{i}/mlp")
    head(builder, x, arithmetic)
    return assemble(builder, standard, fused(hparams)), list(builder.weights.values())


def embed(b: Builder, arithmetic: Arithmetic) -> None:  # [B,S] -> [M,D]
    shape = b.op("Shape", [X.name], "shape")
    packed = b.constant(
        "qkv_width", np.array([3 * b.hparams.n_head * b.hparams.kv_width], np.int64)
    )
    b.op("Concat", [shape, packed], "qkv_shape", axis=0)
    flat = b.constant("flat", np.array([-1], np.int64))
    tokens = arithmetic.tokens(b, b.op("Reshape", [X.name, flat], "embed/X"))
    wpe = b.vector("wpe")
    zero_points(b, X.name, "zero_points")
    position = b.op("Reshape", [POSITION.name, flat], "embed/position")
    places = b.op("Gather", [wpe, position], "embed/places", axis=0)
    b.op("Add", [tokens, places], cut("embed"))


def zero_points(b: Builder, rows: str, name: str) -> None:
    """Use as many zero points [M,1] as `rows` has numbers from here on; unused ones are pruned."""
    column = b.op(
        "Reshape", [rows, b.constant("column", np.array([-1, 1], np.int64))], f"{name}/of"
    )
    value = helper.make_tensor("value", TensorProto.UINT8, [1], [ZERO_POINT])
    shape = b.op("Shape", [column], f"{name}/shape")
    b.zero_points = b.op("ConstantOfShape", [shape], name, value=value)


def norm(b: Builder, x: str, scope: str) -> str:  # [M,D] -> [M,D]
    inputs = [x, b.vector(f"{scope}/g"), b.vector(f"{scope}/b")]
    return b.op("LayerNormalization", inputs, cut(scope), axis=-1, epsilon=b.hparams.epsilon)


def linear(b: Builder, x: str, scope: str, arithmetic: Arithmetic) -> str:  # [M,K] -> [M,N]
    return arithmetic.product(b, x, scope, cut(scope), b.vector(f"{scope}/b"))


def attend(b: Builder, qkv: str, i: int) -> str:  # [M,3D] -> [M,D]
    scope = f"h{i}/attend"
    packed = b.op("Reshape", [qkv, "qkv_shape"], f"{scope}/qkv")
    mixed = b.attention(packed, f"{scope}/mixed", i)
    width = b.hparams.n_head * b.hparams.kv_width
    shape = b.constant("merged_shape", np.array([-1, width], np.int64))
    return b.op("Reshape", [mixed, shape], cut(scope))


def block(b: Builder, x: str, i: int, arithmetic: Arithmetic) -> None:
    h = f"h{i}"
    mixed = attend(b, linear(b, norm(b, x, f"{h}/ln_1"), f"{h}/attn/c_attn", arithmetic), i)
    if i == b.hparams.n_layer - 1:
        # After the last attention rows are independent: only those with wanted logits go on.
        mixed = b.op("Gather", [mixed, ROWS.name], f"{h}/attend/rows", axis=0)
        zero_points(b, ROWS.name, "rows/zero_points")
        rows = b.op("Gather", [x, ROWS.name], f"{h}/rows", axis=0)
        change = linear(b, mixed, f"{h}/attn/c_proj", arithmetic)
        b.op("Add", [rows, change], cut(f"{h}/attn"))
    else:
        linear(b, mixed, f"{h}/attn/c_proj", arithmetic)
    activate(b, norm(b, cut(f"{h}/attn"), f"{h}/ln_2"), h, arithmetic)
    linear(b, cut(f"{h}/gelu"), f"{h}/mlp/c_proj", arithmetic)


def activate(b: Builder, x: str, h: str, arithmetic: Arithmetic) -> None:  # [M,D] -> [M,4D]
    """The MLP's first half: OpenAI's GELU as one op with bias; for other activations the converted
    graph's own nodes, which work on rows as on [B,S,...]."""
    if b.hparams.activation != "gelu_new":
        linear(b, x, f"{h}/mlp/c_fc", arithmetic)
        return
    product = arithmetic.product(b, x, f"{h}/mlp/c_fc", f"{h}/mlp/c_fc/product")
    bias = b.vector(f"{h}/mlp/c_fc/b")
    b.op("FastGelu", [product, bias], cut(f"{h}/gelu"), domain=MICROSOFT)


def head(b: Builder, x: str, arithmetic: Arithmetic) -> None:  # [R,D] -> [R,V]
    arithmetic.head(b, norm(b, x, "ln_f"), logits(b.hparams).name)


def assemble(b: Builder, standard: onnx.ModelProto, interface: Interface) -> onnx.ModelProto:
    """The graph of the emitted nodes and of the standard graph's nodes that they need."""
    inputs, outputs = declared(interface.inputs), declared(interface.outputs)
    makers = {name: node for node in standard.graph.node for name in node.output}
    kept = {value.name: value for value in standard.graph.initializer} | b.constants
    known = {value.name for value in inputs} | set(kept)
    known |= {name for names in b.weights for name in names}
    lost = {node.output[0] for node in b.nodes if node.output[0].endswith("/out:0")} - set(makers)
    if lost:
        raise Gpt2rtError(f"tf2onnx dropped the named cuts {', '.join(sorted(lost))}")
    makers |= {name: node for node in b.nodes for name in node.output if name}
    nodes = prune(makers, [value.name for value in outputs], known)
    read = {name for node in nodes for name in node.input}
    constants = [value for name, value in kept.items() if name in read]
    graph = helper.make_graph(nodes, "gpt2", inputs, outputs, initializer=constants)
    opsets = [
        helper.make_opsetid("", OPSET),
        helper.make_opsetid(MICROSOFT, 1),
    ]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="gpt2rt"
    )


def prune(
    makers: Mapping[str, onnx.NodeProto], wanted: list[str], known: set[str]
) -> list[onnx.NodeProto]:
    """The nodes that compute the tensors `wanted`, in order; `known` tensors need no node."""
    needs: dict[str, set[str]] = {}
    wanted = list(wanted)
    while wanted:
        tensor = wanted.pop()
        if tensor in needs or tensor in known:
            continue
        needs[tensor] = {name for name in makers[tensor].input if name and name not in known}
        wanted.extend(needs[tensor])
    order = TopologicalSorter({key: sorted(needs[key]) for key in sorted(needs)}).static_order()
    return list({id(makers[name]): makers[name] for name in order}.values())


def declared(ports: Iterable[Port]) -> Values:
    """Inputs or outputs of a graph, as its file declares them."""
    return [
        helper.make_tensor_value_info(
            port.name, helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)), port.shape
        )
        for port in ports
    ]
