"""Tensors of a file that `torch.save` wrote, read without PyTorch.

Such a file is a zip with a pickle, which names tensors (`pickles.py` reads it), and their bytes.
The zip's crc32 of the bytes is checked as they are read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import pickles
from gpt2rt_export.sources.checkpoint import first_line
from gpt2rt_export.sources.pickles import View

LARGEST_PICKLE = 4 << 20  # bytes of names and numbers; those of 1558M take 0.2 MB
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
    """One file of `torch.save`, in the zip format of PyTorch 1.6 and later.

    Raises `BadCheckpoint` for another format, a damaged file, and a pickle that asks for anything
    but tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tensors = _named(self._unpickled(), path)

    def _unpickled(self) -> object:
        try:
            with zipfile.ZipFile(self._path) as archive:
                names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
                if len(names) != 1:
                    raise BadCheckpoint(
                        f"{self._path}: holds no data.pkl; it is no torch.save file"
                    )
                self._root = names[0].removesuffix("data.pkl")
                if archive.getinfo(names[0]).file_size > LARGEST_PICKLE:
                    raise BadCheckpoint(f"{self._path}: its pickle is larger than any GPT-2's")
                with archive.open(names[0]) as file:
                    return pickles.load(file)
        except BadCheckpoint:
            raise
        except pickles.Refused as error:
            raise BadCheckpoint(
                f"{self._path}: {error}; a file of torch.save could run anything, so nothing but "
                "tensors is read: save the weights alone, best as model.safetensors"
            ) from None
        except zipfile.BadZipFile:
            raise BadCheckpoint(
                f"{self._path}: not a zip of torch.save (PyTorch 1.6 and later), or cut short; "
                "fetch it again, or save the model anew as model.safetensors"
            ) from None
        except Exception as error:  # zipfile and zlib have types of their own
            raise BadCheckpoint(
                f"{self._path}: cannot be read ({first_line(error)}); fetch it again"
            ) from None

    def read(self, name: str) -> NDArray[Any]:
        """The values of a tensor."""
        import ml_dtypes  # noqa: F401  # teaches NumPy what bfloat16 is

        tensor = self.tensors[name]
        kind = np.dtype(NUMPY[tensor.storage.dtype])
        try:
            with zipfile.ZipFile(self._path) as archive:
                data = archive.read(f"{self._root}data/{tensor.storage.key}")
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
