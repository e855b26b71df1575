"""Writes the weights of exported graphs, made from checkpoint variables, as external data.

Each variable is read, converted to its initializers and written before the next one is read, so
that memory holds about the largest single tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import Checkpoint

Array = NDArray[Any]

ALIGNMENT = 64  # bytes; a cache line, so that a memory-mapped tensor suits every vector unit


@dataclass(frozen=True, slots=True)
class Weight:
    """The initializers `names`, computed by `make` from the checkpoint variable `source`."""

    source: str
    names: tuple[str, ...]
    make: Callable[[Array], tuple[Array, ...]]


def pad_heads(name: str, values: Array, hparams: HParams) -> Array:
    """Attention weights with every head padded with zeros to `kv_width`; others as they are.

    Zeros in q and k add nothing to a score, zeros in v make zeros that c_proj ignores.
    """
    h, w = hparams.n_head, hparams.head_width
    behind = [(0, hparams.kv_width - w)]
    if "/attn/c_attn/" in name:  # [..., 3D]: q, k, v of every head side by side
        heads = values.reshape(*values.shape[:-1], 3 * h, w)
        padded = np.pad(heads, [(0, 0)] * (heads.ndim - 1) + behind)
        return padded.reshape(*values.shape[:-1], -1)
    if name.endswith("/attn/c_proj/w"):  # [1,D,D], a head's rows together
        heads = values.reshape(h, w, -1)
        return np.pad(heads, [(0, 0), *behind, (0, 0)]).reshape(1, -1, values.shape[-1])
    return values


def attach(
    models: Iterable[onnx.ModelProto],
    weights: Iterable[Weight],
    checkpoint: Checkpoint,
    path: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Write every weight into the file `path` and refer to it from those of `models` that read it.

    `advance` is called with the bytes of each variable read from the checkpoint. Raises
    `BadCheckpoint` that lists every variable with values that are not finite, or too large for the
    precision.
    """
    bad, beyond = [], []
    sources: dict[str, list[Weight]] = {}
    for weight in weights:
        sources.setdefault(weight.source, []).append(weight)
    read = [(m, {name for node in m.graph.node for name in node.input}) for m in models]
    with path.open("wb") as file:
        for source, wanted in sources.items():
            values = checkpoint.read(source)
            if not np.isfinite(values).all():
                bad.append(source)
                continue
            made = [pair for w in wanted for pair in zip(w.names, w.make(values), strict=True)]
            if not all(np.isfinite(array).all() for _, array in made):
                beyond.append(source)
            for name, array in made:
                file.write(bytes(-file.tell() % ALIGNMENT))
                tensor = external(name, array, path.name, file.tell())
                for model, names in read:
                    if name in names:
                        model.graph.initializer.append(tensor)
                file.write(np.ascontiguousarray(array).data)  # tofile() hides why it failed
            advance(values.nbytes)
    if bad:
        raise BadCheckpoint(
            f"{checkpoint.origin}: NaN or infinity in {', '.join(sorted(bad))}; "
            "the weights are damaged or training diverged"
        )
    if beyond:
        raise BadCheckpoint(
            f"{checkpoint.origin}: {', '.join(sorted(beyond))} too large for this precision; "
            "export with --fp32 or --int8"
        )


def external(name: str, array: Array, location: str, offset: int) -> onnx.TensorProto:
    """The initializer `name`, whose values are at an offset in bytes of the file `location`."""
    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
