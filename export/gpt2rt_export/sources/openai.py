"""Reads OpenAI's own format: a TensorFlow checkpoint, `hparams.json` and the tokenizer's files.

TensorFlow checks every variable it reads against the crc32c in the index.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from gpt2rt.bundles.catalog import ENCODER, HPARAMS, MERGES
from gpt2rt.bundles.files import sha256
from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import (
    Array,
    differences,
    family,
    first_line,
    left_out,
    unused,
    with_own_head,
)


class OpenAICheckpoint:
    """A directory of OpenAI's files: `hparams.json`, `checkpoint`, `model.ckpt.*`.

    Raises `BadCheckpoint` for files that are missing, cut short or damaged, for `hparams.json` that
    gives another shape than the variables have, and for variables missing or misshapen, all at
    once.
    """

    def __init__(self, directory: Path, *, with_tokenizer: bool = True) -> None:
        self.origin = str(directory)
        if not directory.is_dir():
            raise BadCheckpoint(f"{directory}: no such directory; name one with `--checkpoint DIR`")
        wanted = (HPARAMS, ENCODER, MERGES) if with_tokenizer else (HPARAMS,)
        lost = [name for name in wanted if not (directory / name).is_file()]
        prefix = _prefix(directory, lost)
        index = prefix.with_name(f"{prefix.name}.index")
        if HPARAMS in lost and index.is_file() and (other := family(open_reader(prefix)[1])):
            raise BadCheckpoint(f"{directory}: a checkpoint of another family: {other}")
        if lost:
            raise BadCheckpoint(
                f"{directory}: {', '.join(lost)} missing; a GPT-2 checkpoint has "
                f"{HPARAMS}, {ENCODER}, {MERGES}, model.ckpt.index and model.ckpt.data-*"
            )
        self.hparams = HParams.read(directory / HPARAMS)
        self.tokenizer = directory
        self.files = [index]
        self._reader, found = open_reader(prefix)
        shapes = {name: shape for name, (shape, _) in found.items()}
        _check_lengths(prefix, found)
        self.hparams = with_own_head(self.hparams, shapes, self.read)
        if wrong := differences(self.hparams, shapes):
            raise BadCheckpoint(
                f"{directory}: the checkpoint is not what {HPARAMS} says: {'; '.join(wrong)}"
            )
        self.unused = unused(self.hparams, shapes)
        self.notes = left_out(self.unused)

    @property
    def identity(self) -> str:
        # The index records a checksum of every variable, so it stands for all of them.
        return f"OpenAI checkpoint, sha256 of the index {sha256(self.files[0])}"

    def read(self, name: str) -> Array:
        try:
            return np.asarray(self._reader.get_tensor(name), np.float32)
        except Exception as error:  # TensorFlow's own types differ between releases
            raise BadCheckpoint(
                f"{self.origin}: variable {name} cannot be read ({first_line(error)}); "
                "the data file is damaged: fetch it again"
            ) from None


def _prefix(directory: Path, lost: list[str]) -> Path:
    """Path of the checkpoint without `.index`; what is missing is appended to `lost`."""
    state = directory / "checkpoint"
    name = "model.ckpt"
    if state.is_file():
        text = state.read_text(encoding="utf-8", errors="replace")
        named = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
        if named is None:
            raise BadCheckpoint(f"{state}: names no model_checkpoint_path; fetch the file again")
        # Training elsewhere, on Windows even, may have left an absolute path.
        name = PureWindowsPath(named[1]).name
    elif not (directory / f"{name}.index").is_file():
        found = sorted(path.name.removesuffix(".index") for path in directory.glob("*.index"))
        if len(found) > 1:
            raise BadCheckpoint(
                f"{directory}: several checkpoints ({', '.join(found[:9])}) and no file "
                '"checkpoint" that names one; keep the files of one of them there'
            )
        name = found[0] if found else name
        if not found:
            lost.append("checkpoint")
    prefix = directory / name
    if not prefix.with_name(f"{name}.index").is_file():
        lost.append(f"{name}.index")
    if not list(directory.glob(f"{name}.data-*-of-*")):
        lost.append(f"{name}.data-00000-of-00001")
    return prefix


def open_reader(prefix: Path) -> tuple[Any, dict[str, tuple[tuple[int, ...], int]]]:
    """TensorFlow's reader, and name -> shape and bytes per item (0: a text) of each variable.

    Raises `BadCheckpoint`.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(os.fsencode(prefix))
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
        sizes = {name: 0 if dtype == tf.string else dtype.size for name, dtype in dtypes.items()}
        found = {name: (tuple(shape), sizes[name]) for name, shape in shapes.items()}
    except Exception as error:  # TensorFlow's own types differ between releases
        raise BadCheckpoint(
            f"{prefix}.index: cannot be read ({first_line(error)}); fetch the checkpoint again"
        ) from None
    return reader, found


def _check_lengths(prefix: Path, found: Mapping[str, tuple[tuple[int, ...], int]]) -> None:
    """Raises `BadCheckpoint` where the data files have fewer bytes than the index gives."""
    files = sorted(prefix.parent.glob(f"{prefix.name}.data-*-of-*"))
    held = sum(path.stat().st_size for path in files)
    promised = sum(int(np.prod(shape)) * size for shape, size in found.values())
    if held < promised:
        raise BadCheckpoint(
            f"{files[0]}: {held} bytes, but the index promises {promised}; "
            "the file is cut short: fetch it again"
        )
