"""Completes the standard graph: plain ONNX with OpenAI's combined `past`, for any runtime."""

from __future__ import annotations

import onnx

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import X
from gpt2rt_export.onnx_graph.weights import Weight


def standard(converted: onnx.ModelProto, hparams: HParams) -> tuple[onnx.ModelProto, list[Weight]]:
    """The converted graph with its variables no longer inputs, and the weights that it needs.

    TensorFlow lower-cases argument names, so `x` gets its name `X` back.
    """
    model = onnx.ModelProto()
    model.CopyFrom(converted)
    variables = hparams.variables()
    inputs = [value for value in model.graph.input if value.name not in variables]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    _rename(model.graph, "x", X.name)
    return model, [Weight(name, (name,), lambda w: (w,)) for name in variables]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in graph.input:
        if value.name == old:
            value.name = new
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
