"""Reads a NumPy `.npz` with OpenAI's names (`model/h0/attn/c_attn/w`), common among GPT-2 scripts.

`hparams.json` beside it gives the shape. Without one it is derived from the arrays, with heads 64
wide, as in every model that OpenAI released. An array's crc32 is checked as it is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from gpt2rt.bundles.catalog import HPARAMS
from gpt2rt.bundles.files import sha256
from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import (
    BLOCK,
    Array,
    Shape,
    differences,
    first_line,
    left_out,
    unused,
    with_own_head,
)

HEAD_WIDTH = 64


class NpzCheckpoint:
    """One `.npz` file. A linear layer's weights may lack OpenAI's leading 1.

    Raises `BadCheckpoint` for a file that is damaged or holds other than numbers, and for
    variables missing or misshapen, all at once.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self.tokenizer = path.parent
        self.files = [path]
        self._shapes = _shapes(path)
        beside = path.with_name(HPARAMS)
        says = HPARAMS if beside.is_file() else "the shape of model/wte"
        self.hparams = HParams.read(beside) if beside.is_file() else _derived(self._shapes, path)
        self.hparams = with_own_head(self.hparams, self._shapes, self.read)
        wrong = differences(self.hparams, self._shapes)
        if wrong:
            raise BadCheckpoint(f"{path}: the arrays are not what {says} says: {'; '.join(wrong)}")
        self.unused = unused(self.hparams, self._shapes)

    @property
    def notes(self) -> Sequence[str]:
        return left_out(self.unused)

    @property
    def identity(self) -> str:
        return f"NumPy checkpoint, sha256 of the file {sha256(self.files[0])}"

    def read(self, name: str) -> Array:
        try:
            with zipfile.ZipFile(self.files[0]) as archive, archive.open(f"{name}.npy") as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):
                    raise BadCheckpoint(f"{self.origin}: {name} has bytes behind its values")
        except BadCheckpoint:
            raise
        except Exception as error:  # zipfile, zlib and NumPy have a type each
            raise BadCheckpoint(
                f"{self.origin}: {name} cannot be read ({first_line(error)}); the file is damaged"
            ) from None
        return np.asarray(values.reshape(self._shapes[name]), np.float32)


def _shapes(path: Path) -> dict[str, Shape]:
    """Name -> shape of every array, from the arrays' headers."""
    found: dict[str, Shape] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise BadCheckpoint(f"{path}: holds {name} twice")
                with archive.open(member) as file:
                    shape, dtype = _header(file)
                if dtype.kind != "f":
                    raise BadCheckpoint(f"{path}: {name} is of type {dtype}, not of numbers")
                # OpenAI's weights of a linear layer are [1,in,out].
                linear = name.endswith("/w") and len(shape) == 2
                found[name] = (1, *shape) if linear else shape
    except BadCheckpoint:
        raise
    except Exception as error:  # zipfile, zlib and NumPy have a type each
        raise BadCheckpoint(
            f"{path}: cannot be read as .npz ({first_line(error)}); the file is damaged"
        ) from None
    return found


def _header(file: IO[bytes]) -> tuple[Shape, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read(file)
    return shape, dtype


def _derived(shapes: dict[str, Shape], path: Path) -> HParams:
    """The hyper-parameters that the shapes of the arrays imply. Raises `BadCheckpoint`."""
    wte, wpe = (shapes.get(f"model/{name}", ()) for name in ("wte", "wpe"))
    blocks = [int(m[1]) for m in map(BLOCK.search, shapes) if m]
    if len(wte) != 2 or len(wpe) != 2 or not blocks:
        raise BadCheckpoint(
            f"{path}: holds {', '.join(sorted(shapes)[:3]) or 'nothing'}, not GPT-2's model/wte, "
            "model/wpe, model/h0/...; name the arrays as OpenAI's checkpoint does"
        )
    if wte[1] % HEAD_WIDTH:
        raise BadCheckpoint(
            f"{path}: {wte[1]} is no multiple of {HEAD_WIDTH}, the usual width of a head; "
            f"put a {HPARAMS} with n_head beside the file"
        )
    inner = shapes.get("model/h0/mlp/c_fc/b", (4 * wte[1],))[0]
    return HParams(
        n_vocab=wte[0],
        n_ctx=wpe[0],
        n_embd=wte[1],
        n_head=wte[1] // HEAD_WIDTH,
        n_layer=max(blocks) + 1,
        n_inner=None if inner == 4 * wte[1] else inner,
        tied="model/lm_head" not in shapes,
    )
