"""Runs a checkpoint in TensorFlow on one text, by the functions of `graph.py`.

One transformer block runs at a time, so that memory holds the weights of one; and logits are
computed on demand, so that those of a whole text need not be held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.sources import Checkpoint

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """TensorFlow's result for a text of S tokens; `x` [S,D] is the input of the last layer norm."""

    hparams: HParams
    x: Array
    weights: graph.Weights

    def logits(self, positions: Sequence[int] | slice = slice(None)) -> Array:  # -> [R,V]
        """The logits after the tokens at `positions`."""
        rows = tf.constant(self.x[positions][None])
        logits: Array = graph.head(rows, self.weights, self.hparams)[0].numpy()
        return logits


def read(
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    on_layer: Callable[[int, Array], None] = lambda layer, states: None,
) -> Reference:
    """Run the whole text.

    `on_layer` is called with the number and the hidden states [S,D] of every layer, counted as in
    `Tensors.hidden`.
    """
    hparams = checkpoint.hparams
    x = embed(checkpoint, tokens)
    on_layer(0, x[0].numpy())
    past = graph.empty_past(hparams, 1)[:, 0]
    for i in range(hparams.n_layer):
        x, _ = graph.block(x, past, i, weights(checkpoint, f"h{i}/"), hparams)
        if i + 1 < hparams.n_layer:
            on_layer(i + 1, x[0].numpy())
    last = weights(checkpoint, "ln_f/", hparams.head_variable)
    on_layer(hparams.n_layer, graph.norm(x, "ln_f", last, hparams)[0].numpy())
    return Reference(hparams, x[0].numpy(), last)


def embed(checkpoint: Checkpoint, tokens: Sequence[int]) -> tf.Tensor:  # -> [1,S,D]
    """The input of the first block."""
    tables = weights(checkpoint, "wte", "wpe")
    return graph.embed(tf.constant([tokens], tf.int32), tf.constant(0), tables)


def weights(checkpoint: Checkpoint, *prefixes: str) -> dict[str, tf.Tensor]:
    """The variables whose names, without `model/`, begin with one of `prefixes`."""
    starts = tuple(f"model/{prefix}" for prefix in prefixes)
    names = (name for name in checkpoint.hparams.variables() if name.startswith(starts))
    return {n.removeprefix("model/"): tf.constant(checkpoint.read(n)) for n in names}
