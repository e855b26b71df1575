"""The ops of the fused graph as onnxruntime-web's WebAssembly runs them fast.

A product of whole numbers is one op that scales its sums. Matrices of 8-bit numbers lie in tiles
[N/S,K,S], and their scales in [N/S,1,S]: the op widens every matrix anew in each call, eight
columns at a time, so what it reads together has to lie together.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph.body import MICROSOFT, Body, function
from gpt2rt_export.onnx_graph.functions import FUNCTIONS
from gpt2rt_export.onnx_graph.rounding import ZERO_POINT
from gpt2rt_export.web.functions import NORMED, SIZES, norm, product
from gpt2rt_export.web.functions import attention as attention_of

WEIGHTS = ["w", "scale"]


def functions(hparams: HParams, kv: str) -> dict[str, onnx.FunctionProto]:
    """Name -> function of every op; keys and values have the precision `kv`, as float32."""
    made = (
        embed(),
        norm_linear(),
        norm_linear_gelu(),
        linear_add(),
        norm_head(),
        attention(hparams, kv),
    )
    return FUNCTIONS | {one.name: one for one in made}


def embed() -> onnx.FunctionProto:
    """Columns of an Int8 matrix plus rows of the positions: tokens and positions [T] -> [T,D]."""
    b = Body()
    tile = b.op("Cast", [b.op("Shape", ["w"], start=2)], to=TensorProto.INT32)
    tiles = b.op("Gather", ["w", b.op("Div", ["tokens", tile])], axis=0)  # [T,D,S]
    columns = b.op("Transpose", [tiles], perm=[0, 2, 1])
    place = b.op("Unsqueeze", [b.op("Mod", ["tokens", tile]), b.constant([1])])
    place = b.op("Cast", [place], to=TensorProto.INT64)
    wide = b.op("Cast", [b.op("GatherND", [columns, place], batch_dims=1)], to=TensorProto.FLOAT)
    steps = b.op("Sub", [wide, b.constant(ZERO_POINT, np.float32)])
    scales = b.op("Reshape", ["scale", b.constant([-1])])
    scale = b.op("Unsqueeze", [b.op("Gather", [scales, "tokens"], axis=0), b.constant([1])])
    places = b.op("Gather", ["places", "positions"], axis=0)
    b.op("Add", [b.op("Mul", [steps, scale]), places], "y")
    return function("EmbedInt8", ["tokens", "positions", *WEIGHTS, "places"], ["y"], b)


def norm_linear() -> onnx.FunctionProto:
    """A layer norm and a linear layer: [M,K] -> [M,N]."""
    b = Body()
    b.op("Add", [_product(b, norm(b)), "bias"], "y")
    return product("NormLinearInt8", [*NORMED, *WEIGHTS, "bias"], b)


def norm_linear_gelu() -> onnx.FunctionProto:
    """A layer norm, a linear layer and OpenAI's GELU: [M,K] -> [M,N]."""
    b = Body()
    b.op("FastGelu", [_product(b, norm(b)), "bias"], "y", domain=MICROSOFT)
    return product("NormLinearGeluInt8", [*NORMED, *WEIGHTS, "bias"], b)


def linear_add() -> onnx.FunctionProto:
    """A linear layer [M,K] -> [M,N], plus a residual [M,N]."""
    b = Body()
    b.op("Add", [b.op("Add", [_product(b, "x"), "bias"]), "residual"], "y")
    return product("LinearAddInt8", ["x", *WEIGHTS, "bias", "residual"], b, SIZES)


def norm_head() -> onnx.FunctionProto:
    """A layer norm and a product without bias: [M,K] -> logits [M,N]."""
    b = Body()
    b.op("Identity", [_product(b, norm(b))], "y")
    return product("NormHeadInt8", [*NORMED, *WEIGHTS], b)


def attention(hparams: HParams, kv: str) -> onnx.FunctionProto:
    """Attention over keys and values that are rounded as the runtime stores them."""
    b = Body()
    wide = hparams.n_head * hparams.kv_width
    qkv = "qkv"
    if kv == "float16":  # what is stored is rounded so, also where it is stored wide
        q, stored = b.split("Split", [qkv, b.constant([wide, 2 * wide])], 2, axis=1)
        narrow = b.op("Cast", [stored], to=TensorProto.FLOAT16)
        qkv = b.op("Concat", [q, b.op("Cast", [narrow], to=TensorProto.FLOAT)], axis=1)
    return attention_of(b, qkv, hparams)


def _product(b: Body, x: str) -> str:  # [M,K] -> [M,N]
    """Rows in whole numbers times the matrix, each with its scale.

    Rows of zeros divide by zero; what that makes is times zero in the end.
    """
    largest = b.op("ReduceMax", [b.op("Abs", [x]), b.constant([1])], keepdims=1)
    scale = b.op("Div", [largest, b.constant(127, np.float32)])
    one, zero = b.constant(1, np.float32), b.constant(ZERO_POINT, np.uint8)
    rows = b.op("QuantizeLinear", [b.op("Div", [x, scale]), one, zero])
    sums = b.op("MatMulIntegerToFloat", [rows, "w", one, "scale", zero, zero], domain=MICROSOFT)
    tiles = b.op("Transpose", [sums], perm=[1, 0, 2])  # [N/S,M,S] -> [M,N/S,S]
    return b.op("Mul", [b.op("Reshape", [tiles, b.constant([0, -1])]), scale])
