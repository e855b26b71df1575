"""Shares the size of every channel evenly between a layer norm and the matrix after it.

A product of integers rounds a row of activations in steps of its largest value. In trained GPT-2s a
few channels are tens of times larger than the rest, which then are left with few steps. Where a
norm's gain and shift make such a channel smaller, and the matrix that reads it has larger weights
for it, the model is the same and its rows are rounded more evenly (SmoothQuant, Xiao et al. 2022).

The size of a channel is measured on a text of random tokens. That needs no data, and shows what the
embeddings and the biases add to the residual whatever the text. The last norm stays as it is: its
result is the last hidden state, which users get.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.sources import Array, Checkpoint, WrappedCheckpoint
from gpt2rt_export.verify.reference import embed, weights

TOKENS = 256  # of the random text, at most
LARGEST = 60  # power of two that a channel is multiplied or divided by


@dataclass(frozen=True, slots=True)
class SmoothedCheckpoint(WrappedCheckpoint):
    """`whole` with the variables that `factors` names multiplied by them."""

    factors: dict[str, Array]

    def read(self, name: str) -> Array:
        values = self.whole.read(name)
        return values * self.factors[name] if name in self.factors else values


def smoothed(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, with channels about as large in activations as in the weights behind them.

    Its float32 results are the same to the bit, since the factors are powers of two. What is read
    of it does not depend on how `checkpoint` shares a channel between a norm and its matrix.
    """
    hparams, factors = checkpoint.hparams, dict[str, Array]()
    for norm, matrix, x, values in normed(checkpoint):
        rows = graph.norm(x, norm, values, hparams)[0].numpy()
        factor = balance(rows, values[f"{matrix}/w"][0].numpy())
        factors |= {f"model/{norm}/{part}": np.reciprocal(factor) for part in "gb"}
        factors[f"model/{matrix}/w"] = factor[:, None]
    return SmoothedCheckpoint(checkpoint, factors)


def normed(checkpoint: Checkpoint) -> Iterator[tuple[str, str, tf.Tensor, graph.Weights]]:
    """Every norm that only one matrix reads: their names, the norm's input [1,S,D] for a text of
    random tokens, and the weights of the block.
    """
    hparams = checkpoint.hparams
    size = min(hparams.n_ctx, TOKENS)
    x = embed(checkpoint, np.random.default_rng(0).integers(hparams.n_vocab, size=size).tolist())
    past = graph.empty_past(hparams, 1)[:, 0]
    for i in range(hparams.n_layer):
        values = weights(checkpoint, f"h{i}/")
        yield f"h{i}/ln_1", f"h{i}/attn/c_attn", x, values
        x, _ = graph.attention(x, past, i, values, hparams)
        yield f"h{i}/ln_2", f"h{i}/mlp/c_fc", x, values
        x = graph.mlp(x, i, values, hparams)


def balance(x: Array, w: Array) -> Array:  # [S,K], [K,N] -> [K]
    """Powers of two: with x divided and w multiplied by them, both have channels of like size.

    A size is the root of the mean square. A channel of zeros, or one with values that are not
    finite, stays as it is.
    """
    with np.errstate(all="ignore"):
        ratio = np.square(x).mean(0, np.float64) / np.square(w).mean(1, np.float64)
        power = np.rint(np.log2(ratio) / 4)
        power = np.where(np.isfinite(power), np.clip(power, -LARGEST, LARGEST), 0)
    factors: Array = np.exp2(power).astype(np.float32)
    return factors
