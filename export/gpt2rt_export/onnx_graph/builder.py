"""Collects the parts of a fused graph: nodes, constants and the weights that it needs."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import helper, numpy_helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import SEQLENS, TOTAL, fused
from gpt2rt_export.onnx_graph.weights import Array, Weight, pad_heads

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own ops


class Builder:
    """The parts of a fused graph made so far."""

    def __init__(self, hparams: HParams) -> None:
        self.hparams = hparams
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[tuple[str, ...], Weight] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.zero_points = "zero_points"  # [M] times 128, for arithmetics that quantise rows

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

    def attention(self, qkv: str, output: str, layer: int) -> str:
        """Append the attention of a layer, over its past: packed q, k, v [B,S,3D] -> [B,S,D]."""
        ports = fused(self.hparams)
        past, present = ([p.name for p in pair[layer]] for pair in (ports.past, ports.present))
        return self.op(
            "GroupQueryAttention",
            [qkv, "", "", *past, SEQLENS.name, TOTAL.name],
            [output, *present],
            domain=MICROSOFT,
            num_heads=self.hparams.n_head,
            kv_num_heads=self.hparams.n_head,
            do_rotary=0,
            scale=self.hparams.attention_scale(layer),
        )

    def shape(self, scope: str) -> tuple[int, int]:
        """[K,N] of a linear layer's weights, with the heads padded."""
        _, k, n = self.hparams.variables()[f"model/{scope}/w"]
        width = self.hparams.n_head * self.hparams.kv_width
        if scope.endswith("/attn/c_attn"):
            n = 3 * width
        if scope.endswith("/attn/c_proj"):
            k = width
        return k, n
