"""Writes small checkpoints in every format, from the same values, for tests and for fuzzing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary
from models import LargerWeights

Values = Mapping[str, NDArray[Any]]
Cast = Callable[[NDArray[np.float32]], NDArray[Any]]


def values_of(weights: LargerWeights) -> dict[str, NDArray[np.float32]]:
    return {name: weights.read(name) for name in weights.hparams.variables()}


def save_openai(
    folder: Path, values: Values, hparams: HParams, name: str = "model.ckpt", **options: object
) -> Path:
    """With TensorFlow 1's Saver, as OpenAI did, and the files beside the variables."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        for variable, value in values.items():
            tf1.get_variable(variable, initializer=value)
        session.run(tf1.global_variables_initializer())
        saver = tf1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / name), **options)
    (folder / "hparams.json").write_text(json.dumps(hparams.as_dict()))
    write_vocabulary(folder, *synthetic_vocabulary(hparams.n_vocab))
    return folder


def huggingface_config(hparams: HParams, **changes: object) -> dict[str, object]:
    """`config.json` of a shape; a change to None leaves the key out."""
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": hparams.n_vocab,
        "n_positions": hparams.n_ctx,
        "n_embd": hparams.n_embd,
        "n_head": hparams.n_head,
        "n_layer": hparams.n_layer,
        "n_inner": hparams.n_inner,
        "layer_norm_epsilon": hparams.epsilon,
        "activation_function": hparams.activation,
        "scale_attn_weights": hparams.scale_attn,
        "scale_attn_by_inverse_layer_idx": hparams.scale_attn_by_layer,
        "tie_word_embeddings": hparams.tied,
        **changes,
    }
    return {key: value for key, value in config.items() if value is not None or key == "n_inner"}


def huggingface_tensors(
    values: Values, prefix: str = "transformer.", cast: Cast = lambda value: value
) -> dict[str, NDArray[Any]]:
    """Under Transformers' names, linear weights as [in, out]."""
    ends = {"g": "weight", "b": "bias", "w": "weight"}
    tensors = {}
    for name, value in values.items():
        parts = name.split("/")[1:]
        if parts[0] == "lm_head":
            tensors["lm_head.weight"] = cast(value)
            continue
        if parts[0].startswith("h"):
            parts[:1] = ["h", parts[0][1:]]
        if len(parts) == 1:
            parts.append("w")
        own = ".".join([*parts[:-1], ends[parts[-1]]])
        tensors[prefix + own] = cast(value[0] if value.ndim == 3 else value)
    return tensors


def save_huggingface(
    folder: Path,
    hparams: HParams,
    tensors: Mapping[str, NDArray[Any]],
    shards: int = 1,
    **changes: object,
) -> Path:
    """A directory as `save_pretrained` writes it, with `vocab.json` and `merges.txt`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(huggingface_config(hparams, **changes)))
    places: dict[str, str] = {}
    names = sorted(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        file = file if shards > 1 else "model.safetensors"
        part = {name: np.ascontiguousarray(tensors[name]) for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_vocabulary(folder, *synthetic_vocabulary(hparams.n_vocab))
    (folder / "encoder.json").rename(folder / "vocab.json")
    (folder / "vocab.bpe").rename(folder / "merges.txt")
    return folder


def save_npz(folder: Path, hparams: HParams, values: Values) -> Path:
    """`model.npz`, `hparams.json` and OpenAI's tokenizer files; returns the path of the first."""
    folder.mkdir(parents=True)
    np.savez(folder / "model.npz", **dict(values))  # type: ignore[arg-type]
    (folder / "hparams.json").write_text(json.dumps(hparams.as_dict()))
    write_vocabulary(folder, *synthetic_vocabulary(hparams.n_vocab))
    return folder / "model.npz"
