"""Files of `torch.save`, made as PyTorch makes them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


class PickledGlobal:
    """Pickled as the name of something in a module that is not here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class PickledCall:
    """Pickled as a call of a global."""

    def __init__(self, call: PickledGlobal, *args: object) -> None:
        self.call, self.args = call, args


PythonsPickler: Any = pickle.__dict__["_Pickler"]  # the one that can be taught


class Pickler(PythonsPickler):  # type: ignore[misc]
    """Writes globals by their names and storages by their keys, as PyTorch does."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, PickledGlobal):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, PickledCall):
            self.save(obj.call)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Build):
            self.save(obj.value)
            self.save(obj.state)
            self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        return obj[1:] if isinstance(obj, tuple) and obj[:1] == ("PERSISTENT",) else None


def dumped(body: object) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(body)
    return buffer.getvalue()


def tensor(key: str, values: NDArray[Any], **changes: Any) -> PickledCall:
    """A tensor over storage `key`."""
    kind = PickledGlobal("torch", KINDS[values.dtype.name])
    told: dict[str, Any] = {"count": values.size, "offset": 0, "shape": values.shape}
    told["strides"] = tuple(s // values.itemsize for s in values.strides)
    told |= changes
    storage = ("PERSISTENT", "storage", kind, key, "cpu", told["count"])
    rebuild = PickledGlobal("torch._utils", "_rebuild_tensor_v2")
    rest: tuple[Any, ...] = (told["offset"], told["shape"], told["strides"], False, OrderedDict())
    return PickledCall(rebuild, storage, *rest)


def write(path: Path, body: object, storages: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dumped(body))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")  # PyTorch opens no file without
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


class Build:
    """Pickled as a value with a state that is put into it: pickle's BUILD."""

    def __init__(self, value: object, state: object) -> None:
        self.value, self.state = value, state
