"""Writes the weights of a bundle as a directory that every peer's converter reads.

A bundle has its weights in ONNX Runtime's layout and precision, so they are read from the
checkpoint that it was made of (`gpt2rt_export.origin`), and written as a GPT-2 of Hugging Face's
Transformers in float32.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import InvalidSetting
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export.sources import Checkpoint


def directory_for(bundle: Bundle) -> Path:
    """The directory of a bundle's weights for peers, the same for all its precisions.

    Raises `InvalidSetting` for a bundle without GPT-2's kind of vocabulary.
    """
    m = bundle.manifest
    if catalog.ENCODER not in m.files:
        raise InvalidSetting(
            f"{bundle.name}: peers are given GPT-2's own kind of vocabulary only; "
            "measure this model without peers"
        )
    tokenizer = [m.files[name].sha256 for name in (catalog.ENCODER, catalog.MERGES)]
    identity = json.dumps([m.origin, m.hparams.as_dict(), tokenizer])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return catalog.home() / "peers" / f"{m.model}-{key}"


def write_checkpoint(bundle: Bundle, checkpoint: Checkpoint, directory: Path) -> None:
    """Write config, weights and tokenizer as `save_pretrained` does, whole or not at all."""
    from safetensors.numpy import save_file

    hparams = checkpoint.hparams
    tensors = {}
    for variable, shape in hparams.variables().items():
        values = checkpoint.read(variable).reshape(shape[-2:])
        tensors[transformers_name(variable)] = np.ascontiguousarray(values)
    with working_beside(directory) as beside:
        work = beside / "checkpoint"
        work.mkdir()
        save_file(tensors, work / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(bundle.directory / catalog.ENCODER, work / "vocab.json")
        shutil.copyfile(bundle.directory / catalog.MERGES, work / "merges.txt")
        end = Tokenizer.read(bundle.directory).end_of_text
        (work / "config.json").write_text(json.dumps(config(hparams, end), indent=2))
        settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": hparams.n_ctx}
        (work / "tokenizer_config.json").write_text(json.dumps(settings))
        work.rename(directory)


def transformers_name(variable: str) -> str:
    """`model/h0/attn/c_attn/w` -> `transformer.h.0.attn.c_attn.weight`."""
    first, *parts = variable.removeprefix("model/").split("/")
    if first == "lm_head":
        return "lm_head.weight"
    path = ["h", first[1:]] if first[1:].isdigit() else [first]
    ending = "bias" if parts[-1:] == ["b"] else "weight"
    return ".".join(["transformer", *path, *parts[:-1], ending])


def config(hparams: HParams, end_of_text: int) -> dict[str, object]:
    """The fields of `config.json` for Transformers and the peers' converters."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "torch_dtype": "float32",
        "vocab_size": hparams.n_vocab,
        "n_positions": hparams.n_ctx,
        "n_ctx": hparams.n_ctx,
        "n_embd": hparams.n_embd,
        "n_head": hparams.n_head,
        "n_layer": hparams.n_layer,
        "n_inner": hparams.n_inner,
        "layer_norm_epsilon": hparams.epsilon,
        "activation_function": hparams.activation,
        "scale_attn_weights": hparams.scale_attn,
        "scale_attn_by_inverse_layer_idx": hparams.scale_attn_by_layer,
        "tie_word_embeddings": hparams.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


@contextmanager
def working_beside(place: Path) -> Iterator[Path]:
    """A temporary directory beside `place`, removed in the end with all that is left in it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.partial-", dir=place.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
