"""Makes the portable graph: ONNX's own ops for any execution provider, over the fused weights.

It reads keys and values that the runtime holds, in buffers of C positions of which `lengths` tells
how many count, and returns only the new ones. So nothing passes through the graph unchanged, a call
takes texts of different lengths, and buffers of a few sizes make few shapes to compile.

Arithmetic is float32. int8 weights become floats by `DequantizeLinear`, which providers fuse into
their own 8-bit products; int4 weights are multiplied by ONNX Runtime's `MatMulNBits`. The packed
weights are unpacked once, when a session is opened. Activations are [B*S,D], a row for each token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import LENGTHS, POSITION, ROWS, Interface, X, logits, portable
from gpt2rt_export.onnx_graph.body import MICROSOFT
from gpt2rt_export.onnx_graph.builder import Builder
from gpt2rt_export.onnx_graph.cuda import ungrouped
from gpt2rt_export.onnx_graph.formats import FLOAT, HALF, INT4, INT8, STORAGE, Format
from gpt2rt_export.onnx_graph.fuse import assemble, cut
from gpt2rt_export.onnx_graph.rounding import BLOCK, ZERO_POINT
from gpt2rt_export.onnx_graph.weights import Weight

# What is added to a score that does not count: below any score, and not infinity, which some
# providers make NaN of. In the float16 that others compute in it is infinite.
MASKED = -3e38


@dataclass(frozen=True, slots=True)
class Shared:
    """What the attention of all layers has in common.

    The masks are added to the scores of `past` and of `new` positions, whose numbers are `sizes`;
    `heads` is the shape of q, k and v.
    """

    past: str  # [B,1,1,C]
    new: str  # [S,S]
    sizes: str  # C, S
    heads: str  # B, S, 3, H, W


def fuse_portable(
    standard: onnx.ModelProto, hparams: HParams, precision: str
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The portable graph, still without weights, and the weights that it needs."""
    b, forms, interface = Builder(hparams), STORAGE[precision], portable(hparams)
    tokens = TOKENS[forms.embedding.name](b)
    places = b.op("Gather", [b.vector("wpe"), POSITION.name], "embed/places", axis=0)
    x = b.op("Add", [tokens, places], "embed/sum")
    x = reshaped(b, x, [-1, hparams.n_embd], "embed/rows")
    common = shared(b, interface)
    for i in range(hparams.n_layer):
        x = block(b, x, i, forms.linear, common, interface)
    w = matrix(b, hparams.head_variable, forms.embedding)
    b.op("Gemm", [norm(b, x, "ln_f"), w], logits(hparams).name, transB=1)
    return assemble(b, standard, interface), list(b.weights.values())


def block(
    b: Builder, x: str, i: int, form: Format, common: Shared, interface: Interface
) -> str:  # [T,D] -> [T,D]
    h = f"h{i}"
    qkv = linear(b, norm(b, x, f"{h}/ln_1"), f"{h}/attn/c_attn", form)
    mixed = attend(b, qkv, i, common, interface)
    if i == b.hparams.n_layer - 1:  # from here on only rows with wanted logits
        mixed = b.op("Gather", [mixed, ROWS.name], f"{h}/attend/rows", axis=0)
        x = b.op("Gather", [x, ROWS.name], f"{h}/rows", axis=0)
    x = b.op("Add", [x, linear(b, mixed, f"{h}/attn/c_proj", form)], f"{h}/attn/sum")
    inner = activate(b, norm(b, x, f"{h}/ln_2"), h, form)
    return b.op("Add", [x, linear(b, inner, f"{h}/mlp/c_proj", form)], f"{h}/mlp/sum")


def norm(b: Builder, x: str, scope: str) -> str:
    gains = [b.vector(f"{scope}/g"), b.vector(f"{scope}/b")]
    epsilon = b.hparams.epsilon
    return b.op("LayerNormalization", [x, *gains], f"{scope}/norm", axis=-1, epsilon=epsilon)


def activate(b: Builder, x: str, h: str, form: Format) -> str:  # [M,D] -> [M,4D]
    """The MLP's first half; activations other than OpenAI's GELU are the converted graph's."""
    scope = f"{h}/mlp/c_fc"
    if b.hparams.activation == "gelu_new":
        inner = linear(b, x, scope, form)
        return b.op("Gelu", [inner], f"{h}/gelu/tanh", approximate="tanh")
    linear(b, x, scope, form, cut(scope))
    return cut(f"{h}/gelu")


def reshaped(b: Builder, x: str, sizes: list[int], out: str) -> str:
    return b.op("Reshape", [x, whole(b, sizes)], out)


def whole(b: Builder, value: int | list[int], kind: type = np.int64) -> str:
    """A constant of whole numbers, named after them."""
    return b.constant(f"{kind.__name__}/{value}".replace(" ", ""), np.array(value, kind))


# ---- attention


def shared(b: Builder, interface: Interface) -> Shared:
    """The masks and sizes, made once for all layers."""
    tokens = b.op("Shape", [X.name], "shared/tokens")
    past_size = b.op("Shape", [interface.past[0][0].name], "shared/past_size", start=2, end=3)
    new_size = b.op("Shape", [X.name], "shared/new_size", start=1, end=2)
    past, new = counted(b, past_size, "shared/past"), counted(b, new_size, "shared/new")
    seen = b.op("Less", [past, LENGTHS.name], "shared/seen")  # [B,C]
    seen = b.op("Unsqueeze", [seen, whole(b, [1, 2])], "shared/seen_by_heads")
    own = b.op("Unsqueeze", [new, whole(b, [1])], "shared/own")
    before = b.op("LessOrEqual", [new, own], "shared/before")  # [S,S]
    zero = b.constant("zero", np.array(0, np.float32))
    low = b.constant("masked", np.array(MASKED, np.float32))
    heads = whole(b, [3, b.hparams.n_head, b.hparams.kv_width])
    return Shared(
        past=b.op("Where", [seen, zero, low], "shared/past_mask"),
        new=b.op("Where", [before, zero, low], "shared/new_mask"),
        sizes=b.op("Concat", [past_size, new_size], "shared/sizes", axis=0),
        heads=b.op("Concat", [tokens, heads], "shared/heads", axis=0),
    )


def counted(b: Builder, count: str, out: str) -> str:  # [1] -> int32 [0, 1, ...]
    limit = b.op("Squeeze", [count, whole(b, [0])], f"{out}/limit")
    limit = b.op("Cast", [limit], f"{out}/limit32", to=TensorProto.INT32)
    return b.op("Range", [whole(b, 0, np.int32), limit, whole(b, 1, np.int32)], out)


def attend(b: Builder, qkv: str, i: int, common: Shared, interface: Interface) -> str:
    """[T,3HW] -> [T,HW]; the scores of past and new positions share a softmax."""
    h = f"h{i}/attend"
    past_key, past_value = (port.name for port in interface.past[i])
    key, value = (port.name for port in interface.present[i])
    parts = b.op("Reshape", [qkv, common.heads], f"{h}/parts")
    parts = b.op("Transpose", [parts], f"{h}/turned", perm=[2, 0, 3, 1, 4])  # [3,B,H,S,W]
    names = [f"{h}/{part}" for part in "qkv"]
    b.op("Split", [parts], names, axis=0, num_outputs=3)
    for name, out in zip(names, (f"{h}/query", key, value), strict=True):
        b.op("Squeeze", [name, whole(b, [0])], out)
    scale = b.hparams.attention_scale(i)
    factor = b.constant(f"scale/{scale}", np.array(scale, np.float32))
    q = b.op("Mul", [f"{h}/query", factor], f"{h}/scaled")
    past = scored(b, q, past_key, common.past, f"{h}/past")
    scores = b.op(
        "Concat", [past, scored(b, q, key, common.new, f"{h}/new")], f"{h}/scores", axis=-1
    )
    shares = b.op("Softmax", [scores], f"{h}/shares", axis=-1)
    b.op("Split", [shares, common.sizes], [f"{h}/past/shares", f"{h}/new/shares"], axis=-1)
    past = b.op("MatMul", [f"{h}/past/shares", past_value], f"{h}/past/mixed")
    mixed = b.op(
        "Add", [past, b.op("MatMul", [f"{h}/new/shares", value], f"{h}/new/mixed")], f"{h}/sum"
    )
    turned = b.op("Transpose", [mixed], f"{h}/by_token", perm=[0, 2, 1, 3])
    return reshaped(b, turned, [-1, b.hparams.n_head * b.hparams.kv_width], f"{h}/joined")


def scored(b: Builder, q: str, k: str, mask: str, out: str) -> str:  # -> [B,H,S,...]
    """The masked scores of keys, whose transposition is part of the product in most providers."""
    columns = b.op("Transpose", [k], f"{out}/columns", perm=[0, 1, 3, 2])  # [B,H,W,...]
    scores = b.op("MatMul", [q, columns], f"{out}/scores")
    return b.op("Add", [scores, mask], f"{out}/masked")


# ---- products


def linear(b: Builder, x: str, scope: str, form: Format, out: str = "") -> str:  # [M,K] -> [M,N]
    out, bias = out or f"{scope}/product", b.vector(f"{scope}/b")
    if form is INT4:
        return b.op("Add", [int4_product(b, x, scope), bias], out)
    return b.op("Gemm", [x, matrix(b, f"{scope}/w", form), bias], out, transB=1)


def matrix(b: Builder, name: str, form: Format) -> str:
    """A matrix of the checkpoint as float32 [N,K]."""
    return MATRICES[form.name](b, name)


def int8_steps(b: Builder, name: str) -> tuple[str, str, int]:
    """The whole numbers [N,K] of a matrix, the scales of its rows, and N."""
    q, scale = b.matrix(name, INT8)
    n, k = b.rows(name)
    return ungrouped(b, q, [0, 2, 1, 3], (n, k), f"{name}/steps"), scale, n


def int8_matrix(b: Builder, name: str) -> str:
    steps, scale, n = int8_steps(b, name)
    zero = b.constant(f"zero_points/{n}", np.full(n, ZERO_POINT, np.uint8))
    return b.op("DequantizeLinear", [steps, scale, zero], f"{name}/wide", axis=0)


def half_matrix(b: Builder, name: str) -> str:
    return b.op("Cast", [*b.matrix(name, HALF)], f"{name}/wide", to=TensorProto.FLOAT)


def float_matrix(b: Builder, name: str) -> str:
    return b.matrix(name, FLOAT)[0]


MATRICES: dict[str, Callable[[Builder, str], str]] = {
    FLOAT.name: float_matrix,
    HALF.name: half_matrix,
    INT8.name: int8_matrix,
}


def int4_product(b: Builder, x: str, scope: str) -> str:
    k, n = b.shape(scope)
    w, scale, zero = b.matrix(f"{scope}/w", INT4)
    steps = ungrouped(b, w, [0, 3, 1, 2, 4], (n,), f"{scope}/steps")
    blocks = reshaped(b, steps, [0, -1, BLOCK // 2], f"{scope}/blocks")
    scale, zero = (
        ungrouped(b, part, [0, 2, 1], (n,), f"{scope}/{name}")
        for part, name in ((scale, "scale"), (zero, "zero"))
    )
    wide = b.op("Cast", [scale], f"{scope}/scale/wide", to=TensorProto.FLOAT)
    inputs, sizes = [x, blocks, wide, zero], {"K": k, "N": n, "bits": 4, "block_size": BLOCK}
    return b.op("MatMulNBits", inputs, f"{scope}/sums", domain=MICROSOFT, **sizes)


# ---- the token embedding
# Rows are taken as they are stored, and then made float32. Were they taken from a float32 matrix,
# providers would keep that matrix, and read four times the memory for the logits.


def gathered(b: Builder, rows: str, out: str = "embed/tokens") -> str:  # [N,...] -> [B,S,...]
    return b.op("Gather", [rows, X.name], out, axis=0)


def half_tokens(b: Builder) -> str:
    (w,) = b.matrix("wte", HALF)
    rows = gathered(b, w, "embed/halves")
    return b.op("Cast", [rows], "embed/tokens", to=TensorProto.FLOAT)


def int8_tokens(b: Builder) -> str:
    steps, scale, _ = int8_steps(b, "wte")
    rows = b.op("Cast", [gathered(b, steps, "embed/steps")], "embed/wide", to=TensorProto.FLOAT)
    zero = b.constant("zero_point", np.array(ZERO_POINT, np.float32))
    rows = b.op("Sub", [rows, zero], "embed/signed")
    scale = b.op("Unsqueeze", [gathered(b, scale, "embed/scale"), whole(b, [-1])], "embed/scales")
    return b.op("Mul", [rows, scale], "embed/tokens")


TOKENS: dict[str, Callable[[Builder], str]] = {
    FLOAT.name: lambda b: gathered(b, float_matrix(b, "wte")),
    HALF.name: half_tokens,
    INT8.name: int8_tokens,
}
