"""What the bodies of the fused graph's ops have in common on every device of a browser.

onnxruntime-web has no kernels of ours, so the page's graphs have other bodies with the same
meaning: `gpt2rt_export.web.wasm` and `gpt2rt_export.web.webgpu`.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph.attention_function import OUTPUTS
from gpt2rt_export.onnx_graph.body import MICROSOFT, Body, function

NORMED, SIZES = ["x", "gain", "shift"], ["K", "N"]
PAST = ["past_key", "past_value"]


def norm(b: Body) -> str:
    """The layer norm of x [M,K]."""
    return b.op("LayerNormalization", NORMED, refs=["epsilon"], axis=-1)


def attention(b: Body, qkv: str, hparams: HParams) -> onnx.FunctionProto:
    """Attention of new tokens, which follow each other, over the only slot: an op that writes keys
    and values into the memory that it reads them from, if that is bound to both.

    `qkv` [T,3HW] is a name in the body; `lengths` [1] is how many tokens there are with the new
    ones, minus one, and `total` [] is how many.
    """
    axis = b.constant([0])
    rows = b.op("Unsqueeze", [qkv, axis])  # a batch of one
    node = onnx.helper.make_node(
        "GroupQueryAttention",
        [rows, "", "", *PAST, "lengths", "total"],
        ["rows_mixed", *OUTPUTS[1:]],
        domain=MICROSOFT,
        num_heads=hparams.n_head,
        kv_num_heads=hparams.n_head,
    )
    node.attribute.append(
        onnx.AttributeProto(name="scale", type=onnx.AttributeProto.FLOAT, ref_attr_name="scale")
    )
    b.nodes.append(node)
    b.op("Squeeze", ["rows_mixed", axis], OUTPUTS[0])
    return function("Attention", ["qkv", "lengths", "total", *PAST], OUTPUTS, b, ["scale"])


def product(
    name: str, inputs: Sequence[str], body: Body, attributes: Sequence[str] = ("epsilon", *SIZES)
) -> onnx.FunctionProto:
    """The function of a product, whose output is `y`."""
    return function(name, inputs, ["y"], body, attributes)
