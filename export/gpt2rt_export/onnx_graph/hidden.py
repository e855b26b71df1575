"""Makes the embedding graph: the same nodes and weights, with the hidden states as outputs.

It is made from the finished graph of the bundle, of either kind, by the named cuts of its parts,
without the nodes of the logits.
"""

from __future__ import annotations

import onnx
from onnx import helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import hidden as ports_of
from gpt2rt_export.onnx_graph.body import DOMAIN
from gpt2rt_export.onnx_graph.fuse import cut, declared, model_of, prune


def hidden(model: onnx.ModelProto, hparams: HParams) -> onnx.ModelProto:
    """The graph of the hidden states, with its initializers, from the fused or the standard one."""
    fused = bool(model.functions)
    ports = ports_of(hparams, "fused" if fused else "standard")
    nodes = [*model.graph.node, *_last_norm(model, hparams)]
    ends = [cut("embed"), *(cut(f"h{i}/mlp") for i in range(hparams.n_layer - 1)), cut("ln_f")]
    for port, end in zip(ports, ends, strict=True):
        nodes.append(helper.make_node("Identity", [end], [port.name], name=port.name))
    presents = [value for value in model.graph.output if value.name.startswith("present_")]
    outputs = [*declared(ports), *presents]
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
    made = model_of(graph)
    if not fused:
        del made.opset_import[:]
        made.opset_import.extend(model.opset_import)
    return made


def _last_norm(model: onnx.ModelProto, hparams: HParams) -> list[onnx.NodeProto]:
    """The layer norm that the fused graph does within the op of the lm_head."""
    return [
        helper.make_node(
            "Norm",
            node.input[:3],
            [cut("ln_f")],
            name="ln_f/out",
            domain=DOMAIN,
            epsilon=hparams.epsilon,
        )
        for node in model.graph.node
        if node.op_type.startswith("NormHead")
    ]
