"""Reads the tensors of a file of `torch.save` without PyTorch."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import first_line
from gpt2rt_export.sources.pickles import PickleRefused, View
from gpt2rt_export.sources.state_dict import Tensor
from gpt2rt_export.sources.torch_storages import Container, open_container

NUMPY = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class TorchFile:
    """One file of `torch.save`. `body` is what was saved: plain data, and tensors as `View`s.

    `tensors` are those of the state dict, which is `body[within]`, or `body` itself for None.
    Raises `BadCheckpoint` for another format, a damaged file, and a pickle that asks for anything
    but tensors.
    """

    def __init__(self, path: Path, within: str | None = None) -> None:
        self._path = path
        self._container = self._opened()
        self.body = self._container.body
        found = self.body
        if within is not None:
            found = found.get(within) if isinstance(found, dict) else None
        self.tensors = _named(found, path)

    def _opened(self) -> Container:
        try:
            return open_container(self._path)
        except PickleRefused as error:
            raise BadCheckpoint(
                f"{self._path}: {error}; a file of torch.save could run anything, so nothing but "
                "tensors is read: save the weights alone, best as model.safetensors"
            ) from None
        except zipfile.BadZipFile:
            raise BadCheckpoint(
                f"{self._path}: not a file of torch.save, or cut short; "
                "fetch it again, or save the model anew as model.safetensors"
            ) from None
        except Exception as error:  # zipfile and zlib have types of their own
            raise BadCheckpoint(
                f"{self._path}: cannot be read ({first_line(error)}); fetch it again"
            ) from None

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name, each with a function for its values."""
        return {
            name: Tensor(view.shape, view.storage.dtype, partial(self.read, name))
            for name, view in self.tensors.items()
        }

    def read(self, name: str) -> NDArray[Any]:
        """The values of a tensor, in its shape and type. Raises `BadCheckpoint`."""
        import ml_dtypes  # noqa: F401  # teaches NumPy what bfloat16 is

        tensor = self.tensors[name]
        kind = np.dtype(NUMPY[tensor.storage.dtype])
        try:
            data = self._container.read(tensor.storage)
        except Exception as error:  # zipfile and zlib have types of their own
            raise BadCheckpoint(
                f"{self._path}: tensor {name} cannot be read ({first_line(error)}); "
                "fetch the file again"
            ) from None
        if len(data) < tensor.storage.numbers * kind.itemsize:
            raise BadCheckpoint(f"{self._path}: tensor {name} is cut short; fetch the file again")
        values = np.frombuffer(data, kind, tensor.storage.numbers)[tensor.offset :]
        strides = [stride * kind.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False)


def _named(body: object, path: Path) -> dict[str, View]:
    """Name -> tensor of a state dict."""
    if not isinstance(body, dict):
        raise BadCheckpoint(f"{path}: holds {type(body).__name__}, not tensors by their names")
    found = {str(name): value for name, value in body.items() if isinstance(value, View)}
    if odd := [str(name) for name, value in body.items() if not isinstance(value, View)]:
        raise BadCheckpoint(
            f"{path}: {odd[0]!a:.40} is no tensor; save the model's state_dict() alone"
        )
    return found
