"""Makes the fused graph of the standard one, by ops of our own for its named parts.

No pattern is matched. A fused node is emitted with a named cut of `graph.py` as its output, and a
walk back from the new outputs keeps the nodes that they need; the rest of the converted graph, the
combined `past` included, is left out. The precisions differ in the formats of their weights, which
the names of the ops end with. What an op computes is a function of the model (`functions.py`).

All is flat: x [T,D] has a row for each new token of any sequence. Only attention looks at others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    POSITIONS,
    ROWS,
    SLOTS,
    TOKENS,
    Interface,
    Port,
    fused,
    logits,
)
from gpt2rt.errors import Gpt2rtError
from gpt2rt_export.onnx_graph.body import DOMAIN, opsets
from gpt2rt_export.onnx_graph.builder import Builder
from gpt2rt_export.onnx_graph.formats import HALF, INT8, Format, WeightFormats
from gpt2rt_export.onnx_graph.functions import called
from gpt2rt_export.onnx_graph.weights import Weight

Values = list[onnx.ValueInfoProto]

IR_VERSION = 10  # the newest that ONNX Runtime 1.20 reads


def cut(scope: str) -> str:
    """The name of the tensor that the part `scope` of `graph.py` results in."""
    return f"{scope}/out:0"


def fuse(
    standard: onnx.ModelProto, hparams: HParams, formats: WeightFormats, kv: str
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The fused graph, still without weights, and the weights that it needs.

    Its inputs and outputs are those of `gpt2rt.bundles.interface.fused`; keys and values have the
    dtype `kv`. Raises `Gpt2rtError` where the standard graph lacks a named cut.
    """
    builder, interface = Builder(hparams), fused(hparams, kv)
    embed(builder, formats.embedding)
    x = cut("embed")
    for i in range(hparams.n_layer):
        x = block(builder, x, i, formats.linear, interface)
    norm_head(builder, x, formats.embedding)
    return assemble(builder, standard, interface), list(builder.weights.values())


def embed(b: Builder, form: Format) -> None:  # [T] -> [T,D]
    """The rows of the new tokens, plus those of their positions."""
    places = b.vector("wpe")
    if form is INT8:
        inputs = [TOKENS.name, POSITIONS.name, *b.matrix("wte", form), places]
        b.op("EmbedInt8", inputs, cut("embed"), domain=DOMAIN)
        return
    (w,) = b.matrix("wte", form)
    tokens = b.op("Gather", [w, TOKENS.name], "embed/tokens", axis=0)
    if form is HALF:
        tokens = b.op("Cast", [tokens], "embed/wide", to=TensorProto.FLOAT)
    places = b.op("Gather", [places, POSITIONS.name], "embed/places", axis=0)
    b.op("Add", [tokens, places], cut("embed"))


def block(b: Builder, x: str, i: int, form: Format, interface: Interface) -> str:  # [T,D] -> [T,D]
    """Transformer block `i`."""
    h = f"h{i}"
    qkv = linear(b, "NormLinear", form, x, f"{h}/attn/c_attn", cut(f"{h}/attn/c_attn"), f"{h}/ln_1")
    mixed = attend(b, qkv, i, interface)
    if i == b.hparams.n_layer - 1:
        # After the last attention rows are independent: only those with wanted logits go on.
        mixed = b.op("Gather", [mixed, ROWS.name], f"{h}/attend/rows", axis=0)
        x = b.op("Gather", [x, ROWS.name], f"{h}/rows", axis=0)
    x = linear(b, "LinearAdd", form, mixed, f"{h}/attn/c_proj", cut(f"{h}/attn"), residual=x)
    inner = activate(b, x, h, form)
    return linear(b, "LinearAdd", form, inner, f"{h}/mlp/c_proj", cut(f"{h}/mlp"), residual=x)


def linear(
    b: Builder,
    kind: str,
    form: Format,
    x: str,
    scope: str,
    out: str,
    norm: str = "",
    residual: str = "",
) -> str:  # [M,K] -> [M,N]
    """A linear layer, after the layer norm `norm` or before the sum with `residual`."""
    inputs = [x, *gains(b, norm), *b.matrix(f"{scope}/w", form), b.vector(f"{scope}/b")]
    attributes: dict[str, object] = {"epsilon": b.hparams.epsilon} if norm else {}
    if form.sized:
        attributes["K"], attributes["N"] = b.shape(scope)
    inputs += [residual] if residual else []
    return b.op(f"{kind}{form.name}", inputs, out, domain=DOMAIN, **attributes)


def gains(b: Builder, norm: str) -> list[str]:
    return [b.vector(f"{norm}/g"), b.vector(f"{norm}/b")] if norm else []


def attend(b: Builder, qkv: str, i: int, interface: Interface) -> str:  # [T,3HW] -> [T,HW]
    """The attention of layer `i`, which puts new keys and values into their places, too."""
    past, present = ([p.name for p in pair[i]] for pair in (interface.past, interface.present))
    return b.op(
        "Attention",
        [qkv, SLOTS.name, POSITIONS.name, *past],
        [cut(f"h{i}/attend"), *present],
        domain=DOMAIN,
        scale=b.hparams.attention_scale(i),
    )


def activate(b: Builder, x: str, h: str, form: Format) -> str:  # [M,D] -> [M,4D]
    """The MLP's first half; activations other than OpenAI's GELU are the converted graph's own
    nodes, which work on rows as on [B,S,...]."""
    scope, norm, out = f"{h}/mlp/c_fc", f"{h}/ln_2", cut(f"{h}/gelu")
    if b.hparams.activation == "gelu_new":
        return linear(b, "NormLinearGelu", form, x, scope, out, norm)
    linear(b, "NormLinear", form, x, scope, cut(scope), norm)
    return out


def norm_head(b: Builder, x: str, form: Format) -> str:  # [R,D] -> [R,V]
    """The last layer norm and the lm_head."""
    inputs = [x, *gains(b, "ln_f"), *b.matrix(b.hparams.head_variable, form)]
    attributes: dict[str, object] = {"epsilon": b.hparams.epsilon}
    if form.sized:
        attributes |= {"K": b.hparams.n_embd, "N": b.hparams.n_vocab}
    kind, result = f"NormHead{form.name}", logits(b.hparams).name
    return b.op(kind, inputs, result, domain=DOMAIN, **attributes)


def assemble(b: Builder, standard: onnx.ModelProto, interface: Interface) -> onnx.ModelProto:
    """The graph of the emitted nodes and of the standard graph's nodes that they need.

    Raises `Gpt2rtError` where the standard graph lacks a named cut.
    """
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
    return model_of(graph)


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A graph as a model, with the functions that it calls."""
    functions = called(graph.node)
    return helper.make_model(
        graph,
        functions=functions,
        opset_imports=opsets(functions=bool(functions)),
        ir_version=IR_VERSION,
        producer_name="gpt2rt",
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
