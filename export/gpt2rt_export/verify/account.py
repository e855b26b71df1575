"""Checks that a checkpoint was read as it is written: every array of its files is accounted for.

TensorFlow and the bundle get their weights from the same reader, so their agreement does not show
its errors. Here the files are opened again by the libraries of their formats: every array must
equal the variable that its name means, or be among those left out. The meaning of a name is found
without the readers, from its words alone. (PyTorch's files have no other reader here: only their
names are checked anew, not their bytes.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import ParityFailure
from gpt2rt_export.sources import Checkpoint
from gpt2rt_export.sources.torch_file import TorchFile

WORDS = re.compile(r"ln_[12f]|\d+|wte|wpe|c_attn|c_proj|c_fc|attn|mlp|lm_head")
END = re.compile(r"(weight|bias|/[wbg]|wte|wpe|lm_head)$")
TORCH = (".bin", ".pt", ".pth")
NANOGPT = (".pt", ".pth")
NAMED = 5  # the most discrepancies that a message names

Values = NDArray[Any]
Part = tuple[str, ...]


def check(checkpoint: Checkpoint) -> None:
    """Raises `ParityFailure` naming the arrays that were not read as they are in the files."""
    if wrong := list(_discrepancies(checkpoint)):
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ParityFailure(
            f"{checkpoint.origin}: was not read as it is written: {'; '.join(wrong[:NAMED])}{more}"
            "; the exporter is at fault: please report it"
        )


def part_of(name: str) -> Part:
    """The part of a GPT-2 that an array's name means, in any spelling: words, and weight or bias.

    `model/h0/mlp/c_fc/b` and `transformer.h.0.mlp.c_fc.bias` -> `0 mlp c_fc bias`; () for the name
    of no part, such as that of an optimizer's copy.
    """
    words = WORDS.findall(name) if END.search(name) else []
    return (*words, "bias" if name.endswith(("bias", "/b")) else "weight") if words else ()


def _discrepancies(checkpoint: Checkpoint) -> Iterator[str]:
    variables = {part_of(name): name for name in checkpoint.hparams.variables()}
    head = part_of("lm_head")
    variables.setdefault(head, "model/wte")  # a tied head, where one is stored
    unused, lost = set(checkpoint.unused), set(checkpoint.hparams.variables())
    for path in checkpoint.files:
        for name, values in _arrays(path):
            part = part_of(name)
            if name in unused and part != head:
                continue
            if part not in variables:
                yield f"{name} is neither used nor named as left out"
            elif not _same(values(), checkpoint.read(variables[part]), path, part):
                yield f"{name} is not what was read as {variables[part]}"
            else:
                lost.discard(variables[part])
    for name in lost if checkpoint.files else ():
        if np.any(checkpoint.read(name)):  # a bias that is in no file is zeros
            yield f"{name} is in no file"


def _same(written: Values, found: Values, path: Path, part: Part) -> bool:
    if path.suffix in NANOGPT and written.ndim == 2 and any("c_" in word for word in part):
        written = written.T  # [out, in]
    if part[0] in ("wte", "lm_head"):
        written = written[: len(found)]  # the rest is padding
    return np.array_equal(
        np.asarray(written, np.float32).reshape(-1), found.reshape(-1), equal_nan=True
    )


def _arrays(path: Path) -> Iterator[tuple[str, Callable[[], Values]]]:
    """Name and values of every array in a file, by the library of its format."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            for name in arrays.files:
                yield name, lambda: arrays[name]  # noqa: B023  # called before the next one, or never
    elif path.suffix in TORCH:
        file = TorchFile(path, "model" if path.suffix in NANOGPT else None)
        for name in file.tensors:
            yield name, lambda: file.read(name)  # noqa: B023
    elif path.suffix == ".index":
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        for name in sorted(reader.get_variable_to_shape_map()):
            yield name, lambda: reader.get_tensor(name)  # noqa: B023
    else:
        import ml_dtypes  # noqa: F401  # teaches NumPy what bfloat16 is
        from safetensors import safe_open

        with safe_open(path, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # no mapping
                yield name, lambda: tensors.get_tensor(name)  # noqa: B023
