"""The ops of the fused graph as onnxruntime-web's WebGPU runs them fast.

A product reads weights of 4 or 8 bits, in blocks that have a scale each, and rows of floats:
rounding these, as processors do, would be five more calls of the device for each product. Matrices
lie [N,K], in blocks [N,K/32,32] (of 4 bits: [N,K/32,16]); int8's have one scale for each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph.body import MICROSOFT, Body, function
from gpt2rt_export.onnx_graph.formats import INT4, INT8, Format
from gpt2rt_export.onnx_graph.rounding import BLOCK
from gpt2rt_export.web.functions import NORMED, SIZES, attention, norm, product

BITS = {INT8.name: 8, INT4.name: 4}


def functions(hparams: HParams) -> dict[str, onnx.FunctionProto]:
    """Name -> function of every op."""
    makers = (norm_linear, norm_linear_gelu, linear_add)
    made = [make(form) for form in (INT8, INT4) for make in makers]
    made += [embed(), norm_head(INT8), attention(Body(), "qkv", hparams)]
    return {one.name: one for one in made}


def embed() -> onnx.FunctionProto:
    """Rows of an Int8 matrix plus rows of the positions: tokens and positions [T] -> [T,D]."""
    b = Body()
    blocks = b.op("Div", [b.op("Shape", ["w"], start=1), b.constant([BLOCK])])
    rows = b.op("Shape", ["w"], start=0, end=1)
    scales = b.op("Expand", ["scale", b.op("Concat", [rows, blocks], axis=0)])
    found = b.op(
        "GatherBlockQuantized",
        ["w", "tokens", scales],
        domain=MICROSOFT,
        bits=8,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    b.op("Add", [found, b.op("Gather", ["places", "positions"], axis=0)], "y")
    return function("EmbedInt8", ["tokens", "positions", "w", "scale", "places"], ["y"], b)


def norm_linear(form: Format) -> onnx.FunctionProto:
    """A layer norm and a linear layer: [M,K] -> [M,N]."""
    b = Body()
    _product(b, form, norm(b), "bias", "y")
    return product(f"NormLinear{form.name}", [*NORMED, *form.inputs, "bias"], b)


def norm_linear_gelu(form: Format) -> onnx.FunctionProto:
    """A layer norm, a linear layer and OpenAI's GELU: [M,K] -> [M,N]."""
    b = Body()
    b.op("FastGelu", [_product(b, form, norm(b), "bias")], "y", domain=MICROSOFT)
    return product(f"NormLinearGelu{form.name}", [*NORMED, *form.inputs, "bias"], b)


def linear_add(form: Format) -> onnx.FunctionProto:
    """A linear layer [M,K] -> [M,N], plus a residual [M,N]."""
    b = Body()
    b.op("Add", [_product(b, form, "x", "bias"), "residual"], "y")
    inputs = ["x", *form.inputs, "bias", "residual"]
    return product(f"LinearAdd{form.name}", inputs, b, SIZES)


def norm_head(form: Format) -> onnx.FunctionProto:
    """A layer norm and a product without bias: [M,K] -> logits [M,N]."""
    b = Body()
    _product(b, form, norm(b), "", "y")
    return product(f"NormHead{form.name}", [*NORMED, *form.inputs], b)


def _product(b: Body, form: Format, x: str, bias: str, output: int | str = 1) -> str:
    weights, scales, *zeros = form.inputs
    inputs: Sequence[str] = [x, weights, _scales(b, form, scales), *(zeros or [""])]
    return b.op(
        "MatMulNBits",
        [*inputs, "", bias] if bias else inputs,
        output,
        domain=MICROSOFT,
        refs=SIZES,
        bits=BITS[form.name],
        block_size=BLOCK,
    )


def _scales(b: Body, form: Format, scales: str) -> str:
    """The scale of each block [N,K/32]."""
    if form is INT4:
        return b.op("Cast", [scales], to=TensorProto.FLOAT)
    blocks = b.op("Div", [b.size("K"), b.constant([BLOCK])])
    return b.op("Expand", [scales, b.op("Concat", [b.size("N"), blocks], axis=0)])
