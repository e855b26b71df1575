"""Collects the parts of a fused graph: nodes, constants and the weights that it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph.formats import Format
from gpt2rt_export.onnx_graph.weights import Array, Weight, pad_heads


class Builder:
    """The parts of a fused graph made so far."""

    def __init__(self, hparams: HParams) -> None:
        self.hparams = hparams
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[tuple[str, ...], Weight] = {}
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(
        self,
        kind: str,
        inputs: list[str],
        output: str | list[str],
        domain: str = "",
        **attributes: object,
    ) -> str:
        """Append a node; returns the name of its (first) output."""
        outputs = [output] if isinstance(output, str) else output
        name = outputs[0].removesuffix(":0")
        node = helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return outputs[0]

    def constant(self, name: str, value: Array) -> str:
        """Add a constant; returns its name."""
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def weight(self, weight: Weight) -> tuple[str, ...]:
        """Require a weight, which may be used more than once; returns its initializers' names."""
        source, make, hparams = weight.source, weight.make, self.hparams
        if hparams.kv_width > hparams.head_width:
            weight = replace(weight, make=lambda w: make(pad_heads(source, w, hparams)))
        return self.weights.setdefault(weight.names, weight).names

    def vector(self, name: str) -> str:
        """Require a gain or a bias in float32; returns its name."""
        return self.weight(Weight(f"model/{name}", (f"model/{name}",), lambda b: (b,)))[0]

    def matrix(self, name: str, form: Format) -> tuple[str, ...]:
        """Require a matrix of the checkpoint in a format; returns its initializers' names."""
        source = f"model/{name}"
        names = tuple(f"{source}{part}" for part in form.parts)
        return self.weight(Weight(source, names, lambda w: form.make(rows_of(w))))

    def shape(self, scope: str) -> tuple[int, int]:
        """[K,N] of a linear layer's weights, with the heads padded."""
        _, k, n = self.hparams.variables()[f"model/{scope}/w"]
        width = self.hparams.n_head * self.hparams.kv_width
        if scope.endswith("/attn/c_attn"):
            n = 3 * width
        if scope.endswith("/attn/c_proj"):
            k = width
        return k, n

    def rows(self, name: str) -> tuple[int, int]:
        """[N,K] of a matrix as it is stored: that of a linear layer (`.../w`), or an embedding."""
        if name.endswith("/w"):
            k, n = self.shape(name.removesuffix("/w"))
            return n, k
        n, k = self.hparams.variables()[f"model/{name}"]
        return n, k


def rows_of(w: Array) -> Array:
    """A matrix as it is stored, [N,K]: OpenAI's [1,K,N] transposed, an embedding as it is."""
    return np.ascontiguousarray(w[0].T) if w.ndim == 3 else w
