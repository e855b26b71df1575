"""The table of precisions: how each multiplies by big weights.

A precision determines how a linear layer's product, the token embedding and the lm_head are
computed and how their weights are stored; all else of the fused graph is float32 everywhere.

int8 is W8A8 with a scale for every row of activations (computed at run time) and for every column
of weights. Sums are of integers, hence exact in any order: a row's product does not depend on
the other rows.

int4 is W4A8 with a scale and a zero point for every block of weights and a scale for every block of
activations, by ONNX Runtime's own op; the lm_head and the embedding, where 4 bits would lose most,
are those of int8.

fp16 keeps weights of half the size. ONNX Runtime has no faster product for them on a CPU:
they are converted to float32 once, when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import TensorProto

from gpt2rt_export.onnx_graph.builder import MICROSOFT, Builder
from gpt2rt_export.onnx_graph.rounding import BLOCK, half, int4_blocks, int8_columns
from gpt2rt_export.onnx_graph.weights import Array, Weight

ZERO_POINT = 128
INT8_PRODUCTS = 4  # `accuracy_level` of MatMulNBits: activations in 8 bits, sums of whole numbers


class Product(Protocol):
    """A linear layer: x [M,K] -> `out` [M,N], plus the tensor `bias` [N] where one is named."""

    def __call__(self, b: Builder, x: str, scope: str, out: str, bias: str = "") -> str: ...


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a precision multiplies; each emits nodes and returns the name of its result."""

    tokens: Callable[[Builder, str], str]  # ids [M] -> rows of wte [M,D]
    product: Product
    head: Callable[[Builder, str, str], str]  # x [R,D], name for the result -> logits [R,V]


def matrix(w: Array) -> Array:  # OpenAI's [1,K,N] -> [K,N]
    return w.reshape(w.shape[-2:])


def _plus(b: Builder, product: Callable[[str], str], scope: str, out: str, bias: str) -> str:
    """The product, and the bias where there is one, added by a node after it."""
    return b.op("Add", [product(f"{scope}/product"), bias], out) if bias else product(out)


# ---- fp32


def fp32_tokens(b: Builder, ids: str) -> str:
    return b.op("Gather", [b.vector("wte"), ids], "embed/tokens", axis=0)


def fp32_product(b: Builder, x: str, scope: str, out: str, bias: str = "") -> str:
    name = f"model/{scope}/w"
    (w,) = b.weight(Weight(name, (name,), lambda w: (matrix(w),)))
    return _plus(b, lambda out: b.op("MatMul", [x, w], out), scope, out, bias)


def fp32_head(b: Builder, x: str, out: str) -> str:
    """Reads the one `wte` of the embedding (where tied), transposed."""
    return _transposed(b, x, b.vector(b.hparams.head_variable), out)


def _transposed(b: Builder, x: str, w: str, out: str) -> str:  # [R,D], [V,D] -> [R,V]
    return b.op("FusedMatMul", [x, w], out, domain=MICROSOFT, transB=1)


# ---- fp16


def _half(b: Builder, name: str) -> str:
    """A matrix of the checkpoint in float16."""
    return b.weight(Weight(name, (f"{name}/fp16",), lambda w: (half(w),)))[0]


def _widened(b: Builder, values: str, out: str) -> str:
    return b.op("Cast", [values], out, to=TensorProto.FLOAT)


def fp16_tokens(b: Builder, ids: str) -> str:
    rows = b.op("Gather", [_half(b, "model/wte"), ids], "embed/rows", axis=0)
    return _widened(b, rows, "embed/tokens")


def fp16_product(b: Builder, x: str, scope: str, out: str, bias: str = "") -> str:
    name = f"model/{scope}/w"
    (w,) = b.weight(Weight(name, (f"{name}/fp16",), lambda w: (half(matrix(w)),)))
    wide = _widened(b, w, f"{scope}/w")
    return _plus(b, lambda out: b.op("MatMul", [x, wide], out), scope, out, bias)


def fp16_head(b: Builder, x: str, out: str) -> str:
    w = _half(b, f"model/{b.hparams.head_variable}")
    return _transposed(b, x, _widened(b, w, "lm_head/w"), out)


# ---- int8


def int8_product(
    b: Builder, x: str, scope: str, k: int, names: tuple[str, ...], out: str
) -> str:  # x [M,K], weights and scales `names` -> [M,N]
    """Quantise the rows of x, multiply in integers, scale back.

    A row is a block of K, so that its scale [M,1] serves both ways as it is. A row of zeros has the
    scale 0; whatever 0/0 is rounded to, the scale makes zeros of it again.
    """
    axis = b.constant("last_axis", np.array([1], np.int64))
    magnitude = b.op("Abs", [x], f"{scope}/magnitude")
    largest = b.op("ReduceMax", [magnitude, axis], f"{scope}/largest", keepdims=1)
    step = b.constant("step", np.array(1 / 127, np.float32))
    scale = b.op("Mul", [largest, step], f"{scope}/scale")
    q = b.op("QuantizeLinear", [x, scale, b.zero_points], f"{scope}/rows", axis=1, block_size=k)
    one = b.constant("one", np.array(1, np.float32))
    zero = b.constant("zero_point", np.array(ZERO_POINT, np.uint8))
    inputs = [q, names[0], one, names[1], zero]
    product = b.op("MatMulIntegerToFloat", inputs, f"{scope}/whole", domain=MICROSOFT)
    return b.op("Mul", [product, scale], out)


def int8_linear(b: Builder, x: str, scope: str, out: str, bias: str = "") -> str:
    name = f"model/{scope}/w"
    names = (f"{name}/int8", f"{name}/scale")
    b.weight(Weight(name, names, lambda w: int8_columns(matrix(w))))
    k, _ = b.shape(scope)
    return _plus(b, lambda out: int8_product(b, x, scope, k, names, out), scope, out, bias)


def int8_wte(b: Builder, name: str) -> tuple[str, ...]:
    """wte as the lm_head multiplies by it, [D,V], scales [V]; the embedding reads columns of it."""
    names = (f"model/{name}/int8", f"model/{name}/scale")
    return b.weight(Weight(f"model/{name}", names, lambda wte: int8_columns(wte.T)))


def int8_tokens(b: Builder, ids: str) -> str:
    q, scale = int8_wte(b, "wte")
    columns = b.op("Gather", [q, ids], "embed/columns", axis=1)
    rows = b.op("Transpose", [columns], "embed/rows", perm=[1, 0])
    values = b.op("Cast", [rows], "embed/values", to=TensorProto.FLOAT)
    axis = b.constant("last_axis", np.array([1], np.int64))
    scales = b.op("Gather", [scale, ids], "embed/scale", axis=0)
    return b.op("Mul", [values, b.op("Unsqueeze", [scales, axis], "embed/scales")], "embed/tokens")


def int8_head(b: Builder, x: str, out: str) -> str:
    names = int8_wte(b, b.hparams.head_variable)
    return int8_product(b, x, "lm_head", b.hparams.n_embd, names, out)


# ---- int4


def int4_product(
    b: Builder, x: str, scope: str, out: str, bias: str = "", to: int = TensorProto.FLOAT
) -> str:
    """`to` is the type of x and of the result."""
    name = f"model/{scope}/w"
    k, n = b.shape(scope)
    names = (f"{name}/int4", f"{name}/scale", f"{name}/zero")
    steps, scale, zero = b.weight(Weight(name, names, lambda w: int4_blocks(matrix(w))))
    if to != TensorProto.FLOAT:
        scale = b.op("Cast", [scale], f"{scope}/scale", to=to)
    return b.op(
        "MatMulNBits",
        [x, steps, scale, zero, "", bias] if bias else [x, steps, scale, zero],
        out,
        domain=MICROSOFT,
        K=k,
        N=n,
        bits=4,
        block_size=BLOCK,
        accuracy_level=INT8_PRODUCTS,
    )


ARITHMETICS = {
    "fp32": Arithmetic(fp32_tokens, fp32_product, fp32_head),
    "fp16": Arithmetic(fp16_tokens, fp16_product, fp16_head),
    "int8": Arithmetic(int8_tokens, int8_linear, int8_head),
    "int4": Arithmetic(int8_tokens, int4_product, int8_head),
}
