"""The ops of the fused graph as ONNX functions: what each computes, in ordinary nodes.

A function is the specification of a kernel in `gpt2rt/kernels`, and runs where that is not there.
Every op but attention takes rows and gives rows, each of which depends on no other. The name of a
product ends with the format of its weights, such as `NormLinearInt8`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from gpt2rt_export.onnx_graph.attention_function import attention
from gpt2rt_export.onnx_graph.body import DOMAIN, Body, function
from gpt2rt_export.onnx_graph.formats import EVERY_FORMAT, Format
from gpt2rt_export.onnx_graph.rounding import GROUP, ZERO_POINT


def embed() -> onnx.FunctionProto:
    """Rows of an Int8 matrix plus rows of the positions: tokens and positions [T] -> [T,D]."""
    b = Body()
    group = b.op("Gather", ["w", b.op("Div", ["tokens", b.constant(GROUP, np.int32)])], axis=0)
    group = b.op("Transpose", [group], perm=[0, 2, 1, 3])  # [T,16,D/4,4]
    place = b.op("Mod", ["tokens", b.constant(GROUP, np.int32)])
    place = b.op("Unsqueeze", [b.op("Cast", [place], to=TensorProto.INT64), b.constant([1])])
    row = b.op("Flatten", [b.op("GatherND", [group, place], batch_dims=1)], axis=1)
    ends = b.op("Shape", ["places"], start=1)
    row = b.op("Slice", [row, b.constant([0]), ends, b.constant([1])])
    wide = b.op("Cast", [row], to=TensorProto.FLOAT)
    steps = b.op("Sub", [wide, b.constant(ZERO_POINT, np.float32)])
    scale = b.op("Unsqueeze", [b.op("Gather", ["scale", "tokens"], axis=0), b.constant([1])])
    places = b.op("Gather", ["places", "positions"], axis=0)
    b.op("Add", [b.op("Mul", [steps, scale]), places], "y")
    return function("EmbedInt8", ["tokens", "positions", "w", "scale", "places"], ["y"], b)


def norm() -> onnx.FunctionProto:
    """Layer norm: x [M,K], gain [K], shift [K] -> [M,K]."""
    b = Body()
    _norm(b, "y")
    return function("Norm", ["x", "gain", "shift"], ["y"], b, ["epsilon"])


def norm_linear(form: Format) -> onnx.FunctionProto:
    """A layer norm and a linear layer: [M,K] -> [M,N]."""
    b = Body()
    product = form.product(b, _norm(b), form.inputs)
    b.op("Add", [product, "bias"], "y")
    return _product("NormLinear", form, b, after=["bias"])


def norm_linear_gelu(form: Format) -> onnx.FunctionProto:
    """A layer norm, a linear layer and OpenAI's GELU, in the tanh form: [M,K] -> [M,N]."""
    b = Body()
    product = form.product(b, _norm(b), form.inputs)
    b.op("Gelu", [b.op("Add", [product, "bias"])], "y", approximate="tanh")
    return _product("NormLinearGelu", form, b, after=["bias"])


def linear_add(form: Format) -> onnx.FunctionProto:
    """A linear layer [M,K] -> [M,N], plus a residual [M,N]."""
    b = Body()
    product = form.product(b, "x", form.inputs)
    b.op("Add", [b.op("Add", [product, "bias"]), "residual"], "y")
    return _product("LinearAdd", form, b, normed=False, after=["bias", "residual"])


def norm_head(form: Format) -> onnx.FunctionProto:
    """A layer norm and a product without bias: [M,K] -> logits [M,N]."""
    b = Body()
    b.op("Identity", [form.product(b, _norm(b), form.inputs)], "y")
    return _product("NormHead", form, b)


def _norm(b: Body, output: int | str = 1) -> str:
    return b.op("LayerNormalization", ["x", "gain", "shift"], output, refs=["epsilon"], axis=-1)


def _product(
    name: str, form: Format, body: Body, normed: bool = True, after: Sequence[str] = ()
) -> onnx.FunctionProto:
    before = ["x", "gain", "shift"] if normed else ["x"]
    attributes = [*(["epsilon"] if normed else []), *(["K", "N"] if form.sized else [])]
    return function(f"{name}{form.name}", [*before, *form.inputs, *after], ["y"], body, attributes)


PRODUCTS = (norm_linear, norm_linear_gelu, linear_add, norm_head)
FUNCTIONS = {
    made.name: made
    for made in (
        embed(),
        norm(),
        attention(),
        *(make(form) for make in PRODUCTS for form in EVERY_FORMAT),
    )
}


def called(nodes: Iterable[onnx.NodeProto]) -> list[onnx.FunctionProto]:
    """The functions that the nodes call, each once."""
    names = {node.op_type for node in nodes if node.domain == DOMAIN}
    return [FUNCTIONS[name] for name in sorted(names)]
