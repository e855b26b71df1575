"""Writes weights in OpenAI's format: a TensorFlow 1 checkpoint and `hparams.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from gpt2rt.bundles.hparams import HParams


def write(weights: Mapping[str, npt.NDArray[np.float32]], hparams: HParams, folder: Path) -> None:
    """Write `checkpoint`, `model.ckpt.*` and `hparams.json`; names begin with `model/`."""
    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        for name, shape in hparams.variables().items():
            variable = tf1.get_variable(name, shape, tf.float32, tf1.zeros_initializer())
            variable.load(weights[name], session)
        saver = tf1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt"))
    (folder / "hparams.json").write_text(json.dumps(hparams.as_dict(), indent=2) + "\n", "utf-8")
