"""GPT-2 as a TensorFlow graph: X and past go in, logits and present come out.

A restatement of OpenAI's `model.py` (github.com/openai/gpt-2) in functions that take every weight
as an argument, under its checkpoint name without the `model/` in front. So the traced graph holds
no weights at all, and one description serves the conversion, the parity check and training.

The last operation of every part is called `out` in the name scope of that part (`h0/ln_1/out`,
`h0/attend/out`, ...). These are the named cuts: the tensors at which `fuse.py` takes a part over.
They are real operations, since graph optimisers drop identities. B is the batch, S the new
positions, P the past ones, D the width, H the heads, W the width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from gpt2rt.bundles.hparams import HParams

Weights = Mapping[str, tf.Tensor]

MASKED = -1e10  # what OpenAI's graph puts in place of a masked score


def norm(
    x: tf.Tensor, scope: str, weights: Weights, hparams: HParams
) -> tf.Tensor:  # [..., D] -> [..., D]
    """Layer norm with the biased variance."""
    with tf.name_scope(scope):
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
        x = (x - mean) * tf.math.rsqrt(variance + np.float32(hparams.epsilon))
        return tf.add(x * weights[f"{scope}/g"], weights[f"{scope}/b"], name="out")


def linear(x: tf.Tensor, scope: str, weights: Weights) -> tf.Tensor:  # [B,S,K] -> [B,S,N]
    """OpenAI's `conv1d`; w is [1,K,N], and flattening makes it one product."""
    w, b = weights[f"{scope}/w"], weights[f"{scope}/b"]
    with tf.name_scope(scope):
        n_in, n_out = w.shape[1], w.shape[2]
        flat = tf.matmul(tf.reshape(x, [-1, n_in]), tf.reshape(w, [n_in, n_out])) + b
        shape = tf.concat([tf.shape(x)[:-1], [n_out]], axis=0)
        return tf.reshape(flat, shape, name="out")


def gelu_new(x: tf.Tensor) -> tf.Tensor:
    """The tanh form (Hendrycks and Gimpel 2016), OpenAI's."""
    inner = np.sqrt(2 / np.pi).astype(np.float32) * (x + 0.044715 * x * x * x)
    return tf.multiply(0.5 * x, 1 + tf.tanh(inner), name="out")


def gelu(x: tf.Tensor) -> tf.Tensor:
    """x times the normal distribution's share below it (Hendrycks and Gimpel 2016)."""
    return tf.multiply(0.5 * x, 1 + tf.math.erf(x * np.float32(np.sqrt(0.5))), name="out")


# In Transformers' words; every one ends in an operation called `out`.
ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu_new": gelu_new,
    "gelu": gelu,
    "quick_gelu": lambda x: tf.multiply(x, tf.sigmoid(1.702 * x), name="out"),
    "relu": lambda x: tf.nn.relu(x, name="out"),
    "silu": lambda x: tf.multiply(x, tf.sigmoid(x), name="out"),
    "tanh": lambda x: tf.tanh(x, name="out"),
    "sigmoid": lambda x: tf.sigmoid(x, name="out"),
}


def activation(x: tf.Tensor, scope: str, hparams: HParams) -> tf.Tensor:
    with tf.name_scope(scope):
        return ACTIVATIONS[hparams.activation](x)


def causal_mask(n_new: tf.Tensor, n_all: tf.Tensor) -> tf.Tensor:  # [S,P+S], 1 where it may look
    rows = tf.range(n_new)[:, None]
    columns = tf.range(n_all)[None, :]
    return tf.cast(rows >= columns - n_all + n_new, tf.float32)


def attend(
    qkv: tf.Tensor, past: tf.Tensor, hparams: HParams, layer: int
) -> tuple[tf.Tensor, tf.Tensor]:  # [B,S,3D], [B,2,H,P,W] -> [B,S,D], [B,2,H,P+S,W]
    """Causal multi-head attention over the past and the new positions."""
    with tf.name_scope(f"h{layer}/attend"):
        batch, n_new = tf.shape(qkv)[0], tf.shape(qkv)[1]
        heads = tf.reshape(qkv, [batch, n_new, 3, hparams.n_head, hparams.head_width])
        q, k, v = tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]), num=3)  # each [B,H,S,W]
        present = tf.concat([past, tf.stack([k, v], axis=1)], axis=-2)
        k, v = tf.unstack(present, num=2, axis=1)  # [B,H,P+S,W]
        scores = tf.matmul(q, k, transpose_b=True) * np.float32(hparams.attention_scale(layer))
        mask = causal_mask(n_new, tf.shape(k)[2])
        scores = scores * mask + MASKED * (1 - mask)
        mixed = tf.matmul(tf.nn.softmax(scores), v)  # [B,H,S,W]
        mixed = tf.transpose(mixed, [0, 2, 1, 3])  # [B,S,H,W]
        return tf.reshape(mixed, [batch, n_new, hparams.n_embd], name="out"), present


def residual(x: tf.Tensor, change: tf.Tensor, scope: str) -> tf.Tensor:
    with tf.name_scope(scope):
        return tf.add(x, change, name="out")


def attention(
    x: tf.Tensor, past: tf.Tensor, layer: int, weights: Weights, hparams: HParams
) -> tuple[tf.Tensor, tf.Tensor]:  # [B,S,D], [B,2,H,P,W] -> [B,S,D], [B,2,H,P+S,W]
    """The first half of a block, its sum with the residual included."""
    scope = f"h{layer}"
    qkv = linear(norm(x, f"{scope}/ln_1", weights, hparams), f"{scope}/attn/c_attn", weights)
    mixed, present = attend(qkv, past, hparams, layer)
    return residual(x, linear(mixed, f"{scope}/attn/c_proj", weights), f"{scope}/attn"), present


def mlp(
    x: tf.Tensor, layer: int, weights: Weights, hparams: HParams
) -> tf.Tensor:  # [B,S,D] -> [B,S,D]
    """The second half of a block, its sum with the residual included."""
    scope = f"h{layer}"
    hidden = linear(norm(x, f"{scope}/ln_2", weights, hparams), f"{scope}/mlp/c_fc", weights)
    hidden = activation(hidden, f"{scope}/gelu", hparams)
    hidden = linear(hidden, f"{scope}/mlp/c_proj", weights)
    return residual(x, hidden, f"{scope}/mlp")


def block(
    x: tf.Tensor, past: tf.Tensor, layer: int, weights: Weights, hparams: HParams
) -> tuple[tf.Tensor, tf.Tensor]:  # [B,S,D], [B,2,H,P,W] -> [B,S,D], [B,2,H,P+S,W]
    """One pre-norm transformer block."""
    x, present = attention(x, past, layer, weights, hparams)
    return mlp(x, layer, weights, hparams), present


def embed(X: tf.Tensor, n_past: tf.Tensor, weights: Weights) -> tf.Tensor:  # [B,S] -> [B,S,D]
    """Token plus position; positions count on from the past."""
    with tf.name_scope("position"):
        position = tf.add(n_past, tf.range(tf.shape(X)[1]), name="out")
    with tf.name_scope("embed"):
        tokens, places = tf.gather(weights["wte"], X), tf.gather(weights["wpe"], position)
        return tf.add(tokens, places, name="out")


def head(x: tf.Tensor, weights: Weights, hparams: HParams) -> tf.Tensor:  # [B,S,D] -> [B,S,V]
    """The logits: last layer norm, then the token embedding again (if tied), transposed."""
    x = norm(x, "ln_f", weights, hparams)
    w = weights[hparams.head_variable]
    with tf.name_scope("lm_head"):
        flat = tf.matmul(tf.reshape(x, [-1, w.shape[1]]), w, transpose_b=True)
        shape = tf.concat([tf.shape(x)[:-1], [w.shape[0]]], axis=0)
        return tf.reshape(flat, shape, name="out")


def gpt2(
    X: tf.Tensor, past: tf.Tensor, weights: Weights, hparams: HParams
) -> tuple[tf.Tensor, tf.Tensor]:
    """The whole model.

    X: int32 [B,S]; past: float32 [B,L,2,H,P,W], P may be 0. Returns logits float32 [B,S,V] and
    present float32 [B,L,2,H,P+S,W].
    """
    x = embed(X, tf.shape(past)[-2], weights)
    presents = []
    for i in range(hparams.n_layer):
        x, present = block(x, past[:, i], i, weights, hparams)
        presents.append(present)
    return head(x, weights, hparams), tf.stack(presents, axis=1)


def empty_past(hparams: HParams, batch: int) -> tf.Tensor:
    """The past of a text that begins here: [batch,L,2,H,0,W]."""
    return tf.zeros(hparams.past_shape(batch, 0), tf.float32)
