"""Weights as whole numbers: how far from what they were, and in ONNX Runtime's layout."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2rt_export.onnx_graph.rounding import BLOCK, half, int4_blocks, int8_columns

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
SHAPES = [(7, 5), (64, 33), (768, 20)]


def heavy_tailed(shape: tuple[int, int]) -> Floats:
    return np.random.default_rng(0).standard_t(3, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_columns_round_to_the_nearest_step_and_never_saturate(shape: tuple[int, int]) -> None:
    w = heavy_tailed(shape)
    q, scale = int8_columns(w)
    assert (np.abs(w - q * scale) <= 0.5001 * scale).all()
    neighbours = np.add.reduceat(np.abs(q.astype(int)), np.arange(0, len(q), 2), axis=0)
    assert neighbours.max() <= 128
    assert neighbours.max(axis=0).min() >= 127, "each column uses the range it may"


def widened(q: Bytes, scale: Floats, zero: Bytes, k: int) -> Floats:
    """What `MatMulNBits` is documented to make of its weights: [K,N]."""
    steps = halves(q) - halves(zero)[:, : q.shape[1], None]
    return (steps * scale[..., None]).reshape(len(q), -1).T[:k]


def halves(values: Bytes) -> Floats:
    pairs = np.stack([values & 15, values >> 4], axis=-1).astype(np.float32)
    return pairs.reshape(*values.shape[:-1], -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_blocks_round_to_the_nearest_step_of_their_range(shape: tuple[int, int]) -> None:
    k, n = shape
    w = heavy_tailed(shape)
    q, scale, zero = int4_blocks(w)
    assert q.shape == (n, -(-k // BLOCK), BLOCK // 2)
    error = np.pad(np.abs(widened(q, scale, zero, k) - w), ((0, -k % BLOCK), (0, 0)))
    # The zero point is a whole step, so the ends of the range may be half a step off besides.
    assert (error.reshape(-1, BLOCK, n).max(axis=1) <= 1.001 * scale.T).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_int4_keeps_zeros_and_whole_steps(sign: int) -> None:
    w = np.zeros((3 * BLOCK, 3), np.float32)
    w[BLOCK : 2 * BLOCK, 1] = sign * (np.arange(BLOCK) % 16 - 8)
    w[BLOCK : 2 * BLOCK, 2] = sign * 0.5 * (np.arange(BLOCK) % 16)
    np.testing.assert_array_equal(widened(*int4_blocks(w), len(w)), w)


def test_int4_products_are_those_of_the_widened_weights() -> None:
    """ONNX Runtime reads the layout as written; activations of 8 bits are off by half a step."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    from gpt2rt_export.onnx_graph.builder import Builder
    from gpt2rt_export.onnx_graph.fuse import IR_VERSION
    from gpt2rt_export.onnx_graph.quantize import int4_product
    from models import TINY

    k, n = TINY.variables()["model/h0/mlp/c_fc/w"][1:]
    w = heavy_tailed((k, n))
    x = np.random.default_rng(1).standard_normal((5, k)).astype(np.float32)
    bias = np.arange(n, dtype=np.float32)
    b = Builder(TINY)
    int4_product(b, "x", "h0/mlp/c_fc", "y", b.constant("bias", bias))
    (weight,) = b.weights.values()
    for name, values in zip(weight.names, weight.make(w[None]), strict=True):
        b.constant(name, values)
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, x.shape)], [value("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(b.nodes, "product", *ends, initializer=list(b.constants.values()))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wide = widened(*int4_blocks(w), k)
    (found,) = session.run(["y"], {"x": x})
    noise = (np.abs(x).max() / 127) * np.abs(wide).sum(axis=0)
    assert (np.abs(found - (x @ wide + bias)) <= noise).all()
    (alone,) = session.run(["y"], {"x": np.repeat(x[:1], 5, axis=0)})
    np.testing.assert_array_equal(alone[0], found[0])


def test_what_float16_cannot_hold_is_infinite_without_a_warning() -> None:
    with np.errstate(over="raise"):
        found = half(np.array([1.0, 65504.0, 1e6, 1e-9], np.float32))
    np.testing.assert_array_equal(found, np.array([1, 65504, np.inf, 0], np.float16))
