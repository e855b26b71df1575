"""What a model file or a caller can get wrong is an error that names the op."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gpt2rt.kernels.library import kernels

Array = NDArray[Any]


def run(kind: str, feeds: dict[str, Array], outputs: int = 1, **attributes: object) -> list[Array]:
    """The op on arrays of any shapes, all of which the model declares as unknown."""
    path = kernels().path
    if path is None:
        pytest.skip(f"no kernels: {kernels().problem}")
    names = [f"y{number}" for number in range(outputs)]
    node = helper.make_node(kind, [*feeds], names, domain="gpt2rt", **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in feeds.items()
    ]
    declared = [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "one", inputs, declared)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("gpt2rt", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(path))
    content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def zeros(*shape: int, dtype: type = np.float32) -> Array:
    return np.zeros(shape, dtype)


def product(k: int = 64, n: int = 20) -> dict[str, Array]:
    groups = zeros((n + 15) // 16, (k + 63) // 64 * 16, 16, 4, dtype=np.uint8)
    return {
        "x": zeros(2, k),
        "w": groups,
        "scale": zeros(n),
        "bias": zeros(n),
        "residual": zeros(2, n),
    }


def attention(tokens: int = 3) -> dict[str, Array]:
    past = zeros(2, 2, 8, 16, dtype=np.float16)
    return {
        "qkv": zeros(tokens, 3 * 32),
        "slots": zeros(tokens, dtype=np.int32),
        "positions": np.arange(tokens, dtype=np.int32),
        "keys": past,
        "values": past,
    }


def test_what_fits_is_computed() -> None:
    assert run("LinearAddInt8", product())[0].shape == (2, 20)
    assert run("LinearAddInt8", {**product(), "x": zeros(0, 64), "residual": zeros(0, 20)})
    assert run("Attention", attention(), 3, scale=1.0)[0].shape == (3, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"x": zeros(2, 65)},
        {"x": zeros(2)},
        {"x": zeros(2, 0)},
        {"w": zeros(1, 16, 16, 4, dtype=np.uint8)},
        {"w": zeros(2, 16, 16, dtype=np.uint8)},
        {"w": zeros(0, 16, 16, 4, dtype=np.uint8)},
        {"scale": zeros(33)},
        {"scale": zeros(2, 10)},
        {"bias": zeros(19)},
        {"residual": zeros(20)},
        {"residual": zeros(3, 20)},
    ],
    ids=lambda change: str({name: array.shape for name, array in change.items()}),
)
def test_a_product_whose_parts_do_not_fit(change: dict[str, Array]) -> None:
    with pytest.raises(Exception, match=r"gpt2rt\.LinearAddInt8"):
        run("LinearAddInt8", {**product(), **change})


def test_sums_of_too_many_products_are_refused() -> None:
    with pytest.raises(Exception, match="would not fit 32 bits"):
        run("LinearAddInt8", product(k=140_032))


@pytest.mark.parametrize(
    "change",
    [
        {"slots": np.array([0, 0, 2], np.int32)},
        {"slots": np.array([0, 0, -1], np.int32)},
        {"positions": np.array([0, 1, 8], np.int32)},
        {"positions": np.array([-1, 0, 1], np.int32)},
        {"positions": np.array([0, 0, 1], np.int32)},
        {"positions": np.array([2, 1, 0], np.int32)},
        {"slots": zeros(2, dtype=np.int32)},
        {"qkv": zeros(3, 95)},
        {
            "keys": zeros(2, 2, 8, 8, dtype=np.float16),
            "values": zeros(2, 2, 8, 8, dtype=np.float16),
        },
        {"values": zeros(2, 2, 9, 16, dtype=np.float16)},
    ],
    ids=str,
)
def test_attention_over_what_is_not_there(change: dict[str, Array]) -> None:
    with pytest.raises(Exception, match=r"gpt2rt\.Attention"):
        run("Attention", {**attention(), **change}, 3, scale=1.0)


@pytest.mark.parametrize("token", [-1, 20])
def test_a_token_beyond_the_vocabulary(token: int) -> None:
    tokens = np.array([token], np.int32)
    known = product()
    feeds = {"tokens": tokens, "positions": zeros(1, dtype=np.int32), "w": known["w"]}
    with pytest.raises(Exception, match=r"gpt2rt\.EmbedInt8: a token"):
        run("EmbedInt8", {**feeds, "scale": known["scale"], "places": zeros(4, 64)})
