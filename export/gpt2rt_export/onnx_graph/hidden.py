"""Makes the embedding graph: the same nodes and weights, with the hidden states as outputs.

It is made from the finished graph of the bundle, of either kind, by the named cuts of its parts,
without the nodes of the logits and without past keys and values.
"""

from __future__ import annotations

import onnx
from onnx import helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import hidden as outputs_of
from gpt2rt_export.onnx_graph.fuse import cut, declared, prune


def hidden(model: onnx.ModelProto, hparams: HParams) -> onnx.ModelProto:
    """The graph of the hidden states, with its initializers, from the fused or the standard one."""
    fused = any(node.op_type == "GroupQueryAttention" for node in model.graph.node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    for node in nodes:
        if node.op_type == "GroupQueryAttention":
            node.input[3] = node.input[4] = ""  # no past
    ends = [cut("embed"), *(cut(f"h{i}/mlp") for i in range(hparams.n_layer - 1)), cut("ln_f")]
    ports = outputs_of(hparams, "fused" if fused else "standard")
    for port, end in zip(ports, ends, strict=True):
        nodes.append(helper.make_node("Identity", [end], [port.name], name=port.name))
    outputs = declared(ports)
    known = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    makers = {name: node for node in nodes for name in node.output if name}
    nodes = prune(makers, [value.name for value in outputs], known)
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "gpt2",
        [value for value in model.graph.input if value.name in read],
        outputs,
        initializer=[value for value in model.graph.initializer if value.name in read],
    )
    return helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
