"""Traces the TensorFlow graph and converts it to ONNX, still without weights.

Every checkpoint variable is an argument of the traced function and so a graph input here; `fuse.py`
and `weights.py` turn those inputs into external data. Nothing in the model is larger than a few
hundred kilobytes, whatever the size of GPT-2: protobuf's limit of 2 GB is out of reach.
"""

from __future__ import annotations

import logging

import onnx
import tensorflow as tf
import tf2onnx

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.onnx_graph import graph

OPSET = 18  # the newest that tf2onnx 1.17 writes


def trace(hparams: HParams) -> tuple[tf.types.experimental.GenericFunction, list[tf.TensorSpec]]:
    """`graph.gpt2` as one TensorFlow function of X, past and every variable, and its signature."""
    shapes = hparams.variables()

    def model(X: tf.Tensor, past: tf.Tensor, *variables: tf.Tensor) -> dict[str, tf.Tensor]:
        names = (name.removeprefix("model/") for name in shapes)
        weights = dict(zip(names, variables, strict=True))
        logits, present = graph.gpt2(X, past, weights, hparams)
        return {"logits": logits, "present": present}

    n_past = (None, hparams.n_layer, 2, hparams.n_head, None, hparams.head_width)
    signature = [
        tf.TensorSpec((None, None), tf.int32, "X"),
        tf.TensorSpec(n_past, tf.float32, "past"),
        *(tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()),
    ]
    return tf.function(model, autograph=False), signature


def convert(hparams: HParams) -> onnx.ModelProto:
    """The ONNX graph of that shape, with every variable as an input."""
    model, signature = trace(hparams)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto, _ = tf2onnx.convert.from_function(model, signature, opset=OPSET)
    return proto
