"""The functions of the fused graph, each run by itself and held against NumPy in float64.

They are the specification of the kernels: the same laws hold for both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import integers
import reference
from gpt2rt.kernels.library import kernels
from gpt2rt_export.onnx_graph.attention_function import INPUTS
from gpt2rt_export.onnx_graph.body import DOMAIN
from gpt2rt_export.onnx_graph.formats import EVERY_FORMAT, INT4, INT8, Format
from gpt2rt_export.onnx_graph.functions import FUNCTIONS, called
from gpt2rt_export.onnx_graph.fuse import model_of

Array = NDArray[Any]
Floats = NDArray[np.float64]
EPSILON = 1e-3
COMPUTED = ("x", "residual", *INPUTS)  # arguments that are no weights
SHAPES = [(1, 32, 16), (5, 64, 48), (3, 72, 20), (7, 100, 33), (2, 7, 5)]  # M, K, N
# Largest difference relative to the largest value: float32 sums, and one step of a rounding that
# falls on the other side.
CLOSE = 3e-6
STEP = 3e-2


library: Path | None = None  # of the kernels, if they are to compute the functions


@pytest.fixture(params=["bodies", "kernels"], autouse=True)
def _computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "kernels":
        if kernels().path is None:
            pytest.skip(f"no kernels: {kernels().problem}")
        monkeypatch.setattr(sys.modules[__name__], "library", kernels().path)


def call(name: str, feeds: Mapping[str, Array], **attributes: object) -> list[Array]:
    """The outputs of a model that is this one function, whose weights are constants.

    So ONNX Runtime rewrites the nodes as it does those of a bundle.
    """
    made = FUNCTIONS[name]
    node = helper.make_node(name, made.input, made.output, domain=DOMAIN, **attributes)
    types = {x: helper.np_dtype_to_tensor_dtype(values.dtype) for x, values in feeds.items()}

    def declared(name: str, like: str) -> onnx.ValueInfoProto:
        shape = [f"{name}.{axis}" for axis in range(feeds[like].ndim)]
        return helper.make_tensor_value_info(name, types[like], shape)

    inputs = [declared(x, x) for x in made.input if x in COMPUTED]
    weights = [numpy_helper.from_array(v, x) for x, v in feeds.items() if x not in COMPUTED]
    first = made.input[0]
    outputs = [
        declared(y, y.replace("present", "past") if "present" in y else first) for y in made.output
    ]
    model = model_of(helper.make_graph([node], name, inputs, outputs, weights))
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    content, provider = model.SerializeToString(), ["CPUExecutionProvider"]
    session = ort.InferenceSession(content, options, providers=provider)
    return list(session.run(None, {x: v for x, v in feeds.items() if x in COMPUTED}))


# ---- products


def widened(form: Format, tensors: tuple[Array, ...], n: int, k: int) -> Floats:
    """[N,K] as the tensors say, restated from the layout of ONNX Runtime's documentation."""
    w, *rest = (tensor.astype(np.float64) for tensor in tensors)
    if form is INT8:
        rows = integers.ungrouped(w, n).reshape(n, -1)[:, :k]
        return np.asarray((rows - 128) * rest[0][:, None])
    if form is INT4:
        packed, scales, zeros = tensors
        blocks = packed.shape[1]
        packed = integers.ungrouped(packed.reshape(len(packed), -1, 16, 4), n)
        scales, zeros = (integers.ungrouped(x[..., None], n)[..., 0] for x in (scales, zeros))
        wide = integers.widened(packed.reshape(n, blocks, -1), scales, zeros, k)
        return np.asarray(wide, np.float64)
    return np.asarray(w)


def rounded(x: Floats) -> Floats:
    """The rows in 255 steps from minus their largest magnitude to that."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    return np.asarray(np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale)


def product(form: Format, x: Floats, w: Floats) -> Floats:
    return np.asarray((rounded(x) if form in (INT8, INT4) else x) @ w.T)


def tensors_of(form: Format, k: int, n: int) -> tuple[dict[str, Array], Floats, dict[str, object]]:
    """Weights with an outlier and a row of zeros: as inputs, as numbers, and their attributes."""
    w = np.random.default_rng(k).standard_t(4, (n, k)).astype(np.float32)
    w[n // 2] = 0
    made = form.make(w)
    sizes: dict[str, object] = {"K": k, "N": n} if form.sized else {}
    return dict(zip(form.inputs, made, strict=True)), widened(form, made, n, k), sizes


def normed_rows(x: Array, gain: Array, shift: Array) -> Floats:
    wide, g, b = (np.asarray(values, np.float64) for values in (x, gain, shift))
    return reference.norm(wide, g, b, EPSILON)


def assert_close(form: Format, found: Array, wanted: Floats) -> None:
    assert found.dtype == np.float32
    share = STEP if form in (INT8, INT4) else CLOSE
    np.testing.assert_allclose(found, wanted, atol=share * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("form", EVERY_FORMAT, ids=lambda form: form.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_the_stored_weights(
    form: Format, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    rng = np.random.default_rng(1)
    x, residual = (rng.standard_normal((m, width)).astype(np.float32) for width in (k, n))
    gain, shift, bias = (rng.standard_normal(width).astype(np.float32) for width in (k, k, n))
    weights, w, sizes = tensors_of(form, k, n)
    normed = {"x": x, "gain": gain, "shift": shift, **weights}
    rows = normed_rows(x, gain, shift)
    linear = product(form, rows, w) + bias
    for name, feeds, wanted in (
        ("NormLinear", {**normed, "bias": bias}, linear),
        ("NormLinearGelu", {**normed, "bias": bias}, reference.gelu(linear)),
        ("NormHead", normed, product(form, rows, w)),
    ):
        (found,) = call(f"{name}{form.name}", feeds, epsilon=EPSILON, **sizes)
        assert_close(form, found, wanted)
    feeds = {"x": x, **weights, "bias": bias, "residual": residual}
    (found,) = call(f"LinearAdd{form.name}", feeds, **sizes)
    # Without a norm in front the rounding is known exactly.
    wanted = product(form, x.astype(np.float64), w) + bias + residual
    np.testing.assert_allclose(found, wanted, atol=CLOSE * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("form", EVERY_FORMAT, ids=lambda form: form.name)
def test_a_row_depends_on_no_other_and_zeros_stay_zeros(form: Format) -> None:
    k, n = 96, 24
    x = np.random.default_rng(2).standard_normal((4, k)).astype(np.float32)
    x[1] = 0
    x[2, 5] = 3000
    weights, w, sizes = tensors_of(form, k, n)
    fixed = {**weights, "bias": np.zeros(n, np.float32)}

    def linear(rows: Array) -> Array:
        residual = np.zeros((len(rows), n), np.float32)
        return call(f"LinearAdd{form.name}", {"x": rows, **fixed, "residual": residual}, **sizes)[0]

    y = linear(x)
    np.testing.assert_array_equal(y[1], 0)
    np.testing.assert_allclose(y[0], product(form, x[:1].astype(np.float64), w)[0], atol=1e-4)
    for row in range(4):
        np.testing.assert_allclose(y[[row]], linear(x[[row]]), rtol=1e-5, atol=1e-4)
    assert linear(x[:0]).shape == (0, n)


def test_norm_is_a_layer_norm() -> None:
    rng = np.random.default_rng(3)
    x, gain, shift = (rng.standard_normal(s).astype(np.float32) for s in ((5, 24), 24, 24))
    (found,) = call("Norm", {"x": x, "gain": gain, "shift": shift}, epsilon=EPSILON)
    wanted = normed_rows(x, gain, shift)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_only_functions_that_are_called_are_in_a_model() -> None:
    nodes = [helper.make_node("Norm", ["a", "b", "c"], ["d"], domain=DOMAIN)] * 2
    nodes.append(helper.make_node("Norm", ["a"], ["e"], domain="of somebody else"))
    assert [made.name for made in called(nodes)] == ["Norm"]
    assert called(nodes[2:]) == []


# ---- attention

S, H, C, W = 5, 3, 12, 16
SCALE = 0.3


def attention(qkv: Array, slots: Array, positions: Array, past: tuple[Array, Array]) -> list[Array]:
    """One token and head after the other, in float64, over keys and values as they are stored."""
    k, v = (values.copy() for values in past)
    q, new_k, new_v = np.split(qkv.reshape(len(qkv), 3, H, W), 3, axis=1)
    for t, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        k[slot, :, position], v[slot, :, position] = new_k[t, 0], new_v[t, 0]
    mixed = np.zeros((len(qkv), H, W))
    for t, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        for h in range(H):
            keys, values = (a[slot, h, : position + 1].astype(np.float64) for a in (k, v))
            weights = reference.softmax(SCALE * (keys @ q[t, 0, h].astype(np.float64)))
            mixed[t, h] = weights @ values
    return [mixed.reshape(len(qkv), H * W), k, v]


CALLS = {
    "one token": [(0, 0, 1)],
    "a prompt": [(2, 0, 9)],
    "decode, ragged": [(0, 7, 1), (1, 0, 1), (2, 11, 1), (4, 3, 1)],
    "prompts, drafts and decode, in any order": [(3, 2, 4), (0, 11, 1), (4, 0, 7), (1, 5, 2)],
}


@pytest.mark.parametrize("kv", [np.float16, np.float32])
@pytest.mark.parametrize("parts", CALLS.values(), ids=CALLS)
def test_attention_sees_its_own_slot_up_to_its_own_position(
    parts: list[tuple[int, int, int]], kv: type
) -> None:
    rng = np.random.default_rng(4)
    slots = np.concatenate([np.full(n, slot, np.int32) for slot, _, n in parts])
    positions = np.concatenate([np.arange(at, at + n, dtype=np.int32) for _, at, n in parts])
    qkv = rng.standard_normal((len(slots), 3 * H * W)).astype(np.float32)
    past: list[Array] = [rng.standard_normal((S, H, C, W)).astype(kv) for _ in range(2)]
    wanted = attention(qkv, slots, positions, (past[0], past[1]))
    feeds = dict(zip(FUNCTIONS["Attention"].input, (qkv, slots, positions, *past), strict=True))
    mixed, keys, values = call("Attention", feeds, scale=SCALE)
    np.testing.assert_allclose(mixed, wanted[0], atol=2e-6)
    np.testing.assert_array_equal(keys, wanted[1])
    np.testing.assert_array_equal(values, wanted[2])
