"""Makes the fused graph for CUDA: float16 throughout, residual and norm in one op.

It ends in logits, which stay on the device for its tails (`cuda_tails.py`). Parts are replaced at
the same named cuts as in `fuse.py`, and the weight file is shared. Activations stay [B,S,D], so
that there is nothing to reshape, and every node runs on the device, as a CUDA graph needs.
Attention here takes float16 only, so there is no float32: weights in float32 or int8 become float16
once, when a session is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    OFFSET,
    POSITION,
    ROWS,
    SEQLENS,
    TOTAL,
    X,
    centred,
    cuda,
    pool,
    states,
)
from gpt2rt_export.onnx_graph.body import MICROSOFT, Body
from gpt2rt_export.onnx_graph.builder import Builder
from gpt2rt_export.onnx_graph.formats import FLOAT, HALF, INT4, INT8
from gpt2rt_export.onnx_graph.fuse import assemble, cut, declared, model_of
from gpt2rt_export.onnx_graph.rounding import BLOCK, ZERO_POINT, half
from gpt2rt_export.onnx_graph.weights import Weight


@dataclass(frozen=True, slots=True)
class HalfArithmetic:
    """How a precision multiplies float16; each emits nodes and returns the name of its result."""

    embedding: Callable[[Builder, str], str]  # the name of wte, or of the lm_head -> [V,D]
    product: Callable[[Builder, str, str, str], str]  # x [...,K], scope, out -> [...,N], no bias


def fuse_cuda(
    standard: onnx.ModelProto, hparams: HParams, precision: str
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The graph for CUDA, still without weights, and the weights that it needs."""
    b, arithmetic = Builder(hparams), CUDA[precision]
    wte = arithmetic.embedding(b, "wte")
    x, normed = embed(b, wte)
    for i in range(hparams.n_layer):
        # After the last attention only rows with wanted logits go on.
        x, normed = block(b, x, normed, i, arithmetic, whole=i < hparams.n_layer - 1)
    lm_head(b, normed, wte if hparams.tied else arithmetic.embedding(b, hparams.head_variable))
    return assemble(b, standard, cuda(hparams)), list(b.weights.values())


def states_cuda(standard: onnx.ModelProto, hparams: HParams, precision: str) -> onnx.ModelProto:
    """The graph of hidden states for CUDA, without weights, which are those of `fuse_cuda`."""
    b, arithmetic = Builder(hparams), CUDA[precision]
    x, normed = embed(b, arithmetic.embedding(b, "wte"))
    ports = states(hparams)
    for i in range(hparams.n_layer):
        b.op("Identity", [x], ports.results[i].name)
        x, normed = block(b, x, normed, i, arithmetic, whole=True)
    b.op("Identity", [normed], ports.results[-1].name)
    return assemble(b, standard, ports)


def pool_cuda(hparams: HParams) -> onnx.ModelProto:
    """The graph that sums hidden states on a device by their weights, in float32."""
    b, ports = Body(), pool(hparams)
    given, weights = (port.name for port in ports.arguments)
    wide = b.op("Cast", [given], to=TensorProto.FLOAT)
    b.op("MatMul", [weights, wide], ports.results[0].name)
    inputs, outputs = declared(ports.inputs), declared(ports.outputs)
    return model_of(helper.make_graph(b.nodes, "pool", inputs, outputs))


def embed(b: Builder, wte: str) -> tuple[str, str]:  # [V,D] -> [B,S,D], its norm
    tokens = b.op("Gather", [wte, X.name], "embed/tokens", axis=0)
    places = b.op("Gather", [vector(b, "wpe"), POSITION.name], "embed/places", axis=0)
    x = b.op("Add", [tokens, places], "embed/sum")
    inputs = [x, *gains(b, "ln_1", 0)]
    return x, b.op("LayerNormalization", inputs, "h0/ln_1", epsilon=b.hparams.epsilon)


def vector(b: Builder, name: str) -> str:
    """A gain, a bias or wpe, in float16."""
    source = f"model/{name}"
    return b.weight(Weight(source, (f"{source}/fp16",), lambda v: (half(v),)))[0]


def gains(b: Builder, norm: str, i: int) -> tuple[str, str]:
    scope = f"h{i}/{norm}" if i < b.hparams.n_layer else "ln_f"
    return vector(b, f"{scope}/g"), vector(b, f"{scope}/b")


def add_and_norm(
    b: Builder, x: str, change: str, bias: str, gains: tuple[str, str], out: str
) -> tuple[str, str]:
    """x + change + bias, and its layer norm: (sum, normed)."""
    normed = b.op(
        "SkipLayerNormalization",
        [x, change, *gains, bias],
        [f"{out}/normed", "", "", f"{out}/sum"],
        domain=MICROSOFT,
        epsilon=b.hparams.epsilon,
    )
    return f"{out}/sum", normed


def block(
    b: Builder, x: str, normed: str, i: int, arithmetic: HalfArithmetic, whole: bool
) -> tuple[str, str]:  # the residual and its norm [B,S,D] -> those after the block
    """A block; unless it is to be `whole`, only wanted rows [R,D] are behind its attention."""
    h = f"h{i}"
    product = arithmetic.product(b, normed, f"{h}/attn/c_attn", f"{h}/qkv")
    qkv = b.op("Add", [product, vector(b, f"{h}/attn/c_attn/b")], f"{h}/qkv/sum")
    mixed = attend(b, qkv, f"{h}/mixed", i)
    if not whole:
        mixed, x = (
            rows(b, mixed, b.hparams.n_head * b.hparams.kv_width),
            rows(b, x, b.hparams.n_embd),
        )
    change = arithmetic.product(b, mixed, f"{h}/attn/c_proj", f"{h}/attn/change")
    bias = vector(b, f"{h}/attn/c_proj/b")
    x, normed = add_and_norm(b, x, change, bias, gains(b, "ln_2", i), f"{h}/attn")
    inner = activate(b, arithmetic.product(b, normed, f"{h}/mlp/c_fc", f"{h}/mlp/inner"), h)
    change = arithmetic.product(b, inner, f"{h}/mlp/c_proj", f"{h}/mlp/change")
    bias = vector(b, f"{h}/mlp/c_proj/b")
    return add_and_norm(b, x, change, bias, gains(b, "ln_1", i + 1), f"{h}/mlp")


def attend(b: Builder, qkv: str, out: str, i: int) -> str:  # [B,S,3HW] -> [B,S,HW]
    ports = cuda(b.hparams)
    past, present = ([p.name for p in pair[i]] for pair in (ports.past, ports.present))
    return b.op(
        "GroupQueryAttention",
        [qkv, "", "", *past, SEQLENS.name, TOTAL.name],
        [out, *present],
        domain=MICROSOFT,
        num_heads=b.hparams.n_head,
        kv_num_heads=b.hparams.n_head,
        do_rotary=0,
        scale=b.hparams.attention_scale(i),
    )


def rows(b: Builder, x: str, width: int) -> str:  # [B,S,W] -> [R,W]
    shape = b.constant(f"flat_{width}", np.array([-1, width], np.int64))
    flat = b.op("Reshape", [x, shape], f"{x}/flat")
    return b.op("Gather", [flat, ROWS.name], f"{x}/rows", axis=0)


def activate(b: Builder, x: str, h: str) -> str:
    """OpenAI's GELU as one op; else the converted graph's own nodes, in float32."""
    bias = vector(b, f"{h}/mlp/c_fc/b")
    if b.hparams.activation == "gelu_new":
        return b.op("FastGelu", [x, bias], f"{h}/active", domain=MICROSOFT)
    b.op("Cast", [b.op("Add", [x, bias], f"{x}/sum")], cut(f"{h}/mlp/c_fc"), to=TensorProto.FLOAT)
    return b.op("Cast", [cut(f"{h}/gelu")], f"{h}/active", to=TensorProto.FLOAT16)


def lm_head(b: Builder, x: str, w: str) -> None:  # [R,D], [V,D] -> [R,V], [R,1]
    """Logits less their mean, and its negative.

    GPT-2's logits of a row may all be about -100, where float16 has steps of 1/16. Their mean is
    the product with the mean row of the lm_head; it is subtracted inside the product, which sums in
    float32, before rounding.
    """
    source = f"model/{b.hparams.head_variable}"
    (mean,) = b.weight(
        Weight(source, (f"{source}/mean",), lambda w: (half(-w.mean(0, np.float64)[:, None]),))
    )
    below = b.op("MatMul", [x, mean], "lm_head/below")
    # What is subtracted from the logits is what was added to them, rounded or not.
    b.op("Cast", [below], OFFSET.name, to=TensorProto.FLOAT)
    b.op("Gemm", [x, w, below], centred(b.hparams).name, transB=1)


# ---- precisions


def stored(b: Builder, name: str) -> str:
    """A matrix of an fp16 bundle, which is float16 [N,K]."""
    return b.matrix(name, HALF)[0]


def narrowed(b: Builder, name: str) -> str:
    """A float32 matrix as float16 [N,K]."""
    return b.op("Cast", [*b.matrix(name, FLOAT)], f"{name}/half", to=TensorProto.FLOAT16)


def widened(b: Builder, name: str) -> str:
    """An int8 matrix and its scales as float16 [N,K]."""
    (q, scale), out = b.matrix(name, INT8), f"{name}/half"
    q = ungrouped(b, q, [0, 2, 1, 3], b.rows(name), f"{out}/steps")
    wide = b.op("Cast", [q], f"{out}/wide", to=TensorProto.FLOAT)
    axis = b.constant("column", np.array([1], np.int64))
    scales = b.op("Unsqueeze", [scale, axis], f"{out}/scales")
    zero = b.constant("zero_point", np.array(ZERO_POINT, np.float32))
    product = b.op("Mul", [b.op("Sub", [wide, zero], f"{out}/centred"), scales], f"{out}/product")
    return b.op("Cast", [product], out, to=TensorProto.FLOAT16)


def ungrouped(b: Builder, part: str, perm: list[int], sizes: tuple[int, ...], out: str) -> str:
    """Weights in groups of 16 rows as rows of these sizes, without padding.

    `perm` is the order of axes that has the rows in front.
    """
    turned = b.op("Transpose", [part], f"{out}/turned", perm=perm)
    rows = b.op("Flatten", [turned], f"{out}/rows", axis=2)
    start = b.constant(f"{out}/start", np.zeros(len(sizes), np.int64))
    return b.op("Slice", [rows, start, b.constant(f"{out}/end", np.array(sizes, np.int64))], out)


def half_arithmetic(matrix: Callable[[Builder, str], str]) -> HalfArithmetic:
    """The arithmetic of matrices that are float16 once a session is open."""

    def product(b: Builder, x: str, scope: str, out: str) -> str:
        inputs = [x, matrix(b, f"{scope}/w")]
        return b.op("FusedMatMul", inputs, out, domain=MICROSOFT, transB=1)

    return HalfArithmetic(matrix, product)


def int4_product(b: Builder, x: str, scope: str, out: str) -> str:
    k, n = b.shape(scope)
    w, scale, zero = b.matrix(f"{scope}/w", INT4)
    w = ungrouped(b, w, [0, 3, 1, 2, 4], (n,), f"{out}/steps")
    shape = b.constant("int4_blocks", np.array([0, -1, BLOCK // 2], np.int64))
    blocks = b.op("Reshape", [w, shape], f"{out}/blocks")
    scale, zero = (
        ungrouped(b, part, [0, 2, 1], (n,), f"{out}/{name}")
        for part, name in ((scale, "scale"), (zero, "zero"))
    )
    return b.op(
        "MatMulNBits",
        [x, blocks, scale, zero],
        out,
        domain=MICROSOFT,
        K=k,
        N=n,
        bits=4,
        block_size=BLOCK,
    )


CUDA = {
    "fp32": half_arithmetic(narrowed),
    "fp16": half_arithmetic(stored),
    # No op of the CUDA provider multiplies float16 by int8 with a scale for each output.
    "int8": half_arithmetic(widened),
    "int4": HalfArithmetic(widened, int4_product),
}
