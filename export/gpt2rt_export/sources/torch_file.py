"""Tensors of a file that `torch.save` wrote, read without PyTorch.

Such a file is a zip with a pickle, which names tensors, and their bytes. A pickle may call anything
as it is read; here it may name tensors and dictionaries and nothing else. The zip's crc32 of the
bytes is checked as they are read.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import Shape, first_line

LARGEST_PICKLE = 64 << 20  # bytes of names and numbers; those of 1558M take 0.2 MB
# PyTorch's storage types: the name that safetensors has for the type, NumPy's name.
STORAGES = {
    "DoubleStorage": ("F64", "float64"),
    "FloatStorage": ("F32", "float32"),
    "HalfStorage": ("F16", "float16"),
    "BFloat16Storage": ("BF16", "bfloat16"),
    "LongStorage": ("I64", "int64"),
    "IntStorage": ("I32", "int32"),
    "ShortStorage": ("I16", "int16"),
    "CharStorage": ("I8", "int8"),
    "ByteStorage": ("U8", "uint8"),
    "BoolStorage": ("BOOL", "bool"),
}


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in the zip: the member's key, their type, how many."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's values lie in a storage, counted in elements."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape

    @property
    def dtype(self) -> str:
        """The type as safetensors names it, such as F32."""
        return STORAGES[self.storage.kind][0]


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
                    return _Unpickler(file, self._path).load()
        except BadCheckpoint:
            raise
        except zipfile.BadZipFile:
            raise BadCheckpoint(
                f"{self._path}: not a zip of torch.save (PyTorch 1.6 and later), or cut short; "
                "fetch it again, or save the model anew as model.safetensors"
            ) from None
        except Exception as error:  # a damaged pickle raises nearly anything
            raise BadCheckpoint(
                f"{self._path}: its pickle cannot be read ({first_line(error)}); fetch it again"
            ) from None

    def read(self, name: str) -> NDArray[Any]:
        """The values of a tensor."""
        import ml_dtypes  # noqa: F401  # teaches NumPy what bfloat16 is

        tensor = self.tensors[name]
        kind = np.dtype(STORAGES[tensor.storage.kind][1])
        try:
            with zipfile.ZipFile(self._path) as archive:
                data = archive.read(f"{self._root}data/{tensor.storage.key}")
        except Exception as error:  # zipfile and zlib have types of their own
            raise BadCheckpoint(
                f"{self._path}: tensor {name} cannot be read ({first_line(error)}); "
                "fetch the file again"
            ) from None
        if len(data) < tensor.storage.count * kind.itemsize:
            raise BadCheckpoint(f"{self._path}: tensor {name} is cut short; fetch the file again")
        values = np.frombuffer(data, kind, tensor.storage.count)[tensor.offset :]
        strides = [stride * kind.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of tensors and dictionaries; anything else is refused by name."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self._path = path
        # Made anew for every file: what a pickle does to the class stays with that pickle.
        self._known = {
            ("collections", "OrderedDict"): type("Names", (OrderedDict,), {}),
            ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
            ("torch._utils", "_rebuild_parameter"): _Parameter(),
            **{("torch", kind): _Kind(kind) for kind in STORAGES},
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise BadCheckpoint(
                f"{self._path}: asks for {module}.{name}"[:200] + ", which is no tensor; such a "
                "file could run anything and is not read: save the weights alone, best as "
                "model.safetensors"
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        word, kind, key, _, count = pid
        if word != "storage" or not isinstance(kind, _Kind) or type(count) is not int or count < 0:
            raise ValueError(f"{pid!r:.80} is no storage")
        return Storage(str(key), kind.name, count)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a pickle names by `torch.FloatStorage`."""

    name: str


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """Stands for `torch._utils._rebuild_tensor_v2`."""

    def __call__(
        self, storage: Storage, offset: int, shape: Shape, strides: Shape, *others: object
    ) -> Tensor:
        numbers = (offset, *shape, *strides)
        fits = isinstance(storage, Storage) and len(shape) == len(strides)
        if not fits or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor of no shape")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError(f"a tensor {list(shape)} beyond its storage of {storage.count}")
        return Tensor(storage, offset, tuple(shape), tuple(strides))


@dataclass(frozen=True, slots=True)
class _Parameter:
    """Stands for `torch._utils._rebuild_parameter`."""

    def __call__(self, data: Tensor, *others: object) -> Tensor:
        return data


def _named(body: object, path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a state dict."""
    if not isinstance(body, dict):
        raise BadCheckpoint(f"{path}: holds {type(body).__name__}, not tensors by their names")
    found = {str(name): value for name, value in body.items() if isinstance(value, Tensor)}
    if odd := [str(name) for name, value in body.items() if not isinstance(value, Tensor)]:
        raise BadCheckpoint(
            f"{path}: {odd[0]!a:.40} is no tensor; save the model's state_dict() alone"
        )
    return found
