"""Opens a checkpoint in whatever format it has: a table of formats and their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles.manifest import MANIFEST
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import nanogpt
from gpt2rt_export.sources.checkpoint import Checkpoint
from gpt2rt_export.sources.huggingface import CONFIG, HuggingFaceCheckpoint
from gpt2rt_export.sources.nanogpt import NanoGPTCheckpoint
from gpt2rt_export.sources.npz import NpzCheckpoint
from gpt2rt_export.sources.openai import OpenAICheckpoint


@dataclass(frozen=True, slots=True)
class CheckpointFormat:
    """A format: its name, patterns of the files by which it is recognised, and its reader.

    `open` takes the directory and whether the tokenizer's files must be there.
    """

    name: str
    marks: tuple[str, ...]
    open: Callable[[Path, bool], Checkpoint]


def _one(place: Path, pattern: str) -> Path:
    """The only file of a pattern in a directory. Raises `BadCheckpoint` for several."""
    files = sorted(place.glob(pattern))
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise BadCheckpoint(f"{place}: several checkpoints, {names}; name the file itself")
    return files[0]


FORMATS = (
    CheckpointFormat(
        "OpenAI's TensorFlow checkpoint",
        ("checkpoint", "*.index", "*.data-*-of-*"),
        lambda place, with_tokenizer: OpenAICheckpoint(place, with_tokenizer=with_tokenizer),
    ),
    CheckpointFormat(
        "Hugging Face",
        (CONFIG, "*.safetensors", "adapter_config.json", "pytorch_model*.bin"),
        lambda place, with_tokenizer: HuggingFaceCheckpoint(place),
    ),
    CheckpointFormat(
        "nanoGPT",
        (nanogpt.FILE,),
        lambda place, with_tokenizer: NanoGPTCheckpoint(place / nanogpt.FILE),
    ),
    CheckpointFormat(
        "NumPy",
        ("*.npz",),
        lambda place, with_tokenizer: NpzCheckpoint(_one(place, "*.npz")),
    ),
)
# Checkpoints that are one file, by the end of its name.
FILES: dict[str, Callable[[Path], Checkpoint]] = {
    ".npz": NpzCheckpoint,
    ".pt": NanoGPTCheckpoint,
    ".pth": NanoGPTCheckpoint,
}

TORCH = "PyTorch's own format; save it with save_pretrained(), or name the file if nanoGPT wrote it"
# Files of other things, and what a message says of them.
OTHERS = {
    MANIFEST: "a bundle already: run it with `gpt2rt generate --model`",
    "*.gguf": "a model of llama.cpp",
    "*.onnx": "an ONNX model",
    "*.pt": TORCH,
    "*.pth": TORCH,
    "saved_model.pb": "a TensorFlow SavedModel",
}


def open_checkpoint(place: Path, *, with_tokenizer: bool = True) -> Checkpoint:
    """The checkpoint in the directory or file `place`, opened by the reader of its format.

    `with_tokenizer` false: OpenAI's tokenizer files need not be there. Raises `BadCheckpoint`.
    """
    if place.is_file():
        if place.suffix not in FILES:
            raise BadCheckpoint(f"{place}: a file; name the directory, or an .npz or .pt file")
        return FILES[place.suffix](place)
    if not place.is_dir():
        raise BadCheckpoint(f"{place}: no such directory; name the one that holds the checkpoint")
    for known in FORMATS:
        if _holds(place, known.marks):
            return known.open(place, with_tokenizer)
    for mark, what in OTHERS.items():
        if _holds(place, (mark,)):
            raise BadCheckpoint(f"{place}: {what}")
    if _holds(place, ("hparams.json",)):  # a fetched checkpoint without its weights
        return OpenAICheckpoint(place, with_tokenizer=with_tokenizer)
    raise BadCheckpoint(
        f"{place}: no checkpoint there; gpt2rt reads "
        + ", ".join(f"{known.name} ({known.marks[0]})" for known in FORMATS)
    )


def _holds(place: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.is_file() for pattern in patterns for path in place.glob(pattern))
