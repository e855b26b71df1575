"""The table of weight formats: how a matrix is stored, and the product of float32 rows with it.

A matrix is stored [N,K], the weights of an output side by side (whole numbers in groups of 16
outputs), so that one copy of `wte` is read by the row as embedding and multiplied by as lm_head.

Int8 is W8A8: whole numbers with a scale for every row of activations (made at run time) and for
every output. Sums are of whole numbers, hence exact in any order. Int4 is W4A8: a scale and a zero
point for every 32 weights of an output; the token embedding and the lm_head of such a bundle, where
4 bits would lose most, are Int8. Half and Float are float16 and float32, with float32 sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from gpt2rt_export.onnx_graph.body import MICROSOFT, Body
from gpt2rt_export.onnx_graph.rounding import BLOCK, ZERO_POINT, half, int4_groups, int8_groups
from gpt2rt_export.onnx_graph.weights import Array

# The least number that a row of activations is divided by: a row of zeros stays zeros.
LEAST = 1e-30


@dataclass(frozen=True, slots=True)
class Format:
    """How a matrix of weights is stored, and multiplied by.

    `parts`: the names of its tensors, each behind that of the checkpoint's variable; `make` makes
    them of float32 [N,K]; `product` emits the nodes of x [M,K] times the tensors, [M,N]. With
    `sized` the product reads the attributes `K` and `N`; with `integer` it rounds the rows of x.
    """

    name: str
    parts: tuple[str, ...]
    make: Callable[[Array], tuple[Array, ...]]
    product: Callable[[Body, str, tuple[str, ...]], str]
    sized: bool = False
    integer: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tensors in a function."""
        return ("w", "scale", "zero")[: len(self.parts)]


def float_product(b: Body, x: str, weights: tuple[str, ...]) -> str:
    return b.op("Gemm", [x, *weights], transB=1)


def half_product(b: Body, x: str, weights: tuple[str, ...]) -> str:
    (w,) = weights
    return float_product(b, x, (b.op("Cast", [w], to=TensorProto.FLOAT),))


def quantised(b: Body, x: str) -> tuple[str, str]:  # [M,K] -> uint8 [M,K], scales [M,1]
    """Every row in whole numbers from -127 to 127, plus 128, and its scale."""
    # Axis 1, not -1, with which ONNX Runtime 1.31 reduces no rows to a wrong shape.
    largest = b.op("ReduceMax", [b.op("Abs", [x]), b.constant([1])], keepdims=1)
    most = b.constant(127, np.float32)
    # Zero times a row is zero, or NaN if a value is not finite: the whole row then is NaN.
    finite = b.op("ReduceSum", [b.op("Mul", [x, b.constant(0, np.float32)]), b.constant([1])])
    scale = b.op("Add", [b.op("Div", [largest, most]), finite])
    inverse = b.op("Div", [most, b.op("Max", [largest, b.constant(LEAST, np.float32)])])
    one, zero = b.constant(1, np.float32), b.constant(ZERO_POINT, np.uint8)
    return b.op("QuantizeLinear", [b.op("Mul", [x, inverse]), one, zero]), scale


def int8_product(b: Body, x: str, weights: tuple[str, ...]) -> str:
    """Rows in whole numbers times 8-bit weights; the sums are scaled."""
    w, scale = weights
    rows, row_scale = quantised(b, x)
    turned = b.op("Flatten", [b.op("Transpose", [w], perm=[1, 3, 0, 2])], axis=2)  # [K,N], padded
    sizes = b.op("Concat", [b.size("K"), b.size("N")], axis=0)
    turned = b.op("Slice", [turned, b.constant([0, 0]), sizes])
    zero = b.constant(ZERO_POINT, np.uint8)
    sums = b.op("MatMulInteger", [rows, turned, zero, zero])
    wide = b.op("Cast", [sums], to=TensorProto.FLOAT)
    # A product of a column and a row. Were it a Mul, ONNX Runtime 1.31 would fuse it with the sums
    # and the bias, and scale the bias, too.
    scales = b.op("MatMul", [row_scale, b.op("Unsqueeze", [scale, b.constant([0])])])
    return b.op("Mul", [wide, scales])


def ungrouped(b: Body, part: str, perm: Sequence[int]) -> str:
    """Weights in groups of 16 rows as rows [N,...]; `perm` has the axes of the rows in front."""
    rows = b.op("Flatten", [b.op("Transpose", [part], perm=perm)], axis=2)
    return b.op("Slice", [rows, b.constant([0]), b.size("N")])


def int4_product(b: Body, x: str, weights: tuple[str, ...]) -> str:
    """Rows in whole numbers times 4-bit weights, by ONNX Runtime's `MatMulNBits`."""
    w, scale, zero = weights
    turned = ungrouped(b, w, [0, 3, 1, 2, 4])
    blocks = b.op("Reshape", [turned, b.constant([0, -1, BLOCK // 2])])
    scale, zero = (ungrouped(b, part, [0, 2, 1]) for part in (scale, zero))
    rows, row_scale = quantised(b, x)
    whole = b.op("Cast", [rows], to=TensorProto.FLOAT)
    whole = b.op("Sub", [whole, b.constant(ZERO_POINT, np.float32)])
    wide = b.op("Cast", [scale], to=TensorProto.FLOAT)
    product = b.op(
        "MatMulNBits",
        [whole, blocks, wide, zero],
        domain=MICROSOFT,
        refs=("K", "N"),
        bits=4,
        block_size=BLOCK,
    )
    return b.op("Mul", [product, row_scale])


FLOAT = Format("Float", ("",), lambda w: (w,), float_product)
HALF = Format("Half", ("/fp16",), lambda w: (half(w),), half_product)
INT8 = Format("Int8", ("/int8", "/scale"), int8_groups, int8_product, sized=True, integer=True)
INT4 = Format(
    "Int4", ("/int4", "/scale", "/zero"), int4_groups, int4_product, sized=True, integer=True
)
EVERY_FORMAT = (FLOAT, HALF, INT8, INT4)


@dataclass(frozen=True, slots=True)
class WeightFormats:
    """The formats of a precision: of the linear layers, and of the embedding and the lm_head."""

    linear: Format
    embedding: Format


STORAGE = {
    "fp32": WeightFormats(FLOAT, FLOAT),
    "fp16": WeightFormats(HALF, HALF),
    "int8": WeightFormats(INT8, INT8),
    "int4": WeightFormats(INT4, INT8),
}
