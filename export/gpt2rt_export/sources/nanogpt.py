"""Reads a checkpoint of nanoGPT's `train.py`: `ckpt.pt`, a file of `torch.save`.

Its `model` is a state dict, in which the weights of linear layers are [out, in]; `model_args` gives
the shape. The rest, such as the optimizer's state, is no part of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2rt.bundles.files import sha256
from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import Array, left_out
from gpt2rt_export.sources.state_dict import StateDict
from gpt2rt_export.sources.torch_file import TorchFile

FILE = "ckpt.pt"
MODEL, SETTINGS = "model", "model_args"
SHAPE = {
    "n_vocab": "vocab_size",
    "n_ctx": "block_size",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
BIAS = "bias"  # since January 2023; before, there were always biases
KNOWN = {*SHAPE.values(), BIAS, "dropout"}
GELU = (
    "The checkpoint does not say which GELU it was trained with: the exact one is taken, "
    "nanoGPT's since May 2023"
)


class NanoGPTCheckpoint:
    """One `ckpt.pt`; the tokenizer's files, if there are any, are beside it.

    Raises `BadCheckpoint` for another file, for a setting that no GPT-2 has, and for tensors
    missing, misshapen or unknown, all at once.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self.tokenizer = path.parent
        self.files = [path]
        file = TorchFile(path, MODEL)
        body = file.body
        args = body.get(SETTINGS) if isinstance(body, dict) else None
        if not isinstance(body, dict) or not isinstance(args, dict):
            raise BadCheckpoint(
                f"{path}: has no {SETTINGS}, so nanoGPT did not write it; of other models save "
                "the weights by save_pretrained() and name the directory"
            )
        self._beside = [str(key) for key in body if key not in (MODEL, SETTINGS)]
        self._dated = BIAS in args
        hparams = _hparams(args, path)
        found = StateDict(file.state_dict(), hparams, self.origin, SETTINGS, transposed=True)
        if found.has_own_head:
            hparams = replace(hparams, tied=False)
            found = StateDict(file.state_dict(), hparams, self.origin, SETTINGS, transposed=True)
        self.hparams, self._tensors = hparams, found

    @property
    def unused(self) -> list[str]:
        return self._tensors.unused

    @property
    def notes(self) -> list[str]:
        return [*self._tensors.notes, *left_out(self._beside), *([GELU] if self._dated else [])]

    @property
    def identity(self) -> str:
        return f"nanoGPT checkpoint, sha256 of the file {sha256(self.files[0])}"

    def read(self, name: str) -> Array:
        return self._tensors.read(name)


def _hparams(args: Mapping[Any, Any], path: Path) -> HParams:
    """The hyper-parameters; nanoGPT without the setting `bias` is older than its exact GELU."""
    if odd := sorted(str(name) for name in args.keys() - KNOWN):
        raise BadCheckpoint(
            f"{path}: {SETTINGS} has {', '.join(odd)!a:.100}, which no GPT-2 has; "
            "only nanoGPT's own model can be exported"
        )
    values = {ours: args[theirs] for ours, theirs in SHAPE.items() if theirs in args}
    activation = "gelu" if BIAS in args else "gelu_new"
    return HParams.from_dict(values | {"activation": activation}, f"{path}: {SETTINGS}")
