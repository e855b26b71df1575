"""GPT-2 in NumPy, float64, written from the paper and shapes alone: the oracle of the tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams

Array = NDArray[np.float64]


def norm(x: Array, g: Array, b: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return np.asarray(centred / scale * g + b)


def gelu(x: Array) -> Array:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": gelu,
    "gelu": lambda x: np.asarray(x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * sigmoid(x),
    "tanh": lambda x: np.asarray(np.tanh(x)),
    "sigmoid": sigmoid,
}


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


Read = Callable[[str], NDArray[np.float32]]


def logits(read: Read, hparams: HParams, tokens: list[int]) -> Array:
    """Logits [S, V] after every token of one text, uncached."""
    head = np.asarray(read("model/wte" if hparams.tied else "model/lm_head"), np.float64)
    return np.asarray(hidden(read, hparams, tokens)[-1] @ head.T)


def hidden(read: Read, hparams: HParams, tokens: list[int]) -> list[Array]:
    """Hidden states [S, D]: the embeddings, what each block makes of them, the last after ln_f."""

    def w(name: str) -> Array:
        values = np.asarray(read(f"model/{name}"), np.float64)
        return values[0] if values.ndim == 3 else values

    def ln(x: Array, scope: str) -> Array:
        return norm(x, w(f"{scope}/g"), w(f"{scope}/b"), hparams.epsilon)

    s, heads = len(tokens), hparams.n_head
    x = w("wte")[tokens] + w("wpe")[:s]  # [S,D]
    states = [x]
    mask = np.tril(np.ones((s, s), bool))
    for i in range(hparams.n_layer):
        h = f"h{i}"
        a = ln(x, f"{h}/ln_1") @ w(f"{h}/attn/c_attn/w") + w(f"{h}/attn/c_attn/b")
        q, k, v = (part.reshape(s, heads, -1).swapaxes(0, 1) for part in np.split(a, 3, axis=-1))
        scores = q @ k.swapaxes(1, 2)  # [H,S,S]
        if hparams.scale_attn:
            scores = scores / np.sqrt(hparams.head_width)
        if hparams.scale_attn_by_layer:
            scores = scores / (i + 1)
        mixed = softmax(np.where(mask, scores, -1e10)) @ v
        merged = mixed.swapaxes(0, 1).reshape(s, -1)
        x = x + merged @ w(f"{h}/attn/c_proj/w") + w(f"{h}/attn/c_proj/b")
        m = ln(x, f"{h}/ln_2") @ w(f"{h}/mlp/c_fc/w") + w(f"{h}/mlp/c_fc/b")
        x = x + ACTIVATIONS[hparams.activation](m) @ w(f"{h}/mlp/c_proj/w") + w(f"{h}/mlp/c_proj/b")
        states.append(x)
    return [*states[:-1], ln(x, "ln_f")]
