"""nanoGPT's and old PyTorch's files: those the originals wrote, and such made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from checkpoints import huggingface_tensors, values_of
from gpt2rt import HParams
from models import LargerWeights
from torch_files import tensor, write

FILES = Path(__file__).parents[1] / "exporter" / "published"
SHAPE = {"vocab_size": 13, "n_positions": 6, "n_embd": 4, "n_layer": 2, "n_head": 2}
ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 20, "vocab_size": 300}
TENSORS = huggingface_tensors(values_of(LargerWeights(HParams(300, 20, 24, 3, 2), seed=5)))
Tensors = dict[str, NDArray[Any]]


def nanogpt(folder: Path, name: str = "nanogpt.pt") -> Path:
    """A directory as nanoGPT's `out_dir`."""
    folder.mkdir()
    shutil.copyfile(FILES / name, folder / "ckpt.pt")
    return folder


def saved(folder: Path, tensors: Tensors = TENSORS, **changes: Any) -> Path:
    """A `ckpt.pt` made here; a change to None leaves a key out."""
    folder.mkdir()
    turned = {n: v.T.copy() if ".c_" in n and v.ndim == 2 else v for n, v in tensors.items()}
    model = {name: tensor(str(i), value) for i, (name, value) in enumerate(turned.items())}
    body = {"model": model, "model_args": {**ARGS, "bias": True}, **changes}
    data = {str(i): value.tobytes() for i, value in enumerate(turned.values())}
    body = {key: value for key, value in body.items() if value is not None}
    return write(folder / "ckpt.pt", body, data)


def legacy(folder: Path) -> Path:
    """A directory with a `pytorch_model.bin` of the old format."""
    folder.mkdir()
    config = {"model_type": "gpt2", **SHAPE}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(FILES / "legacy.bin", folder / "pytorch_model.bin")
    return folder
