"""Finds the compiled library of kernels, and the graphs that it is for."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpt2rt.bundles.paths import native, path_text
from gpt2rt.bundles.protobuf import fields
from gpt2rt.errors import InvalidSetting
from gpt2rt.kernels.build import HERE, Target

VARIABLE = "GPT2RT_KERNELS"
OFF = "off"
DOMAIN = b"gpt2rt"  # of the operators
FUNCTIONS, FUNCTION_DOMAIN = 25, 10  # fields of ONNX's ModelProto and FunctionProto


@dataclass(frozen=True, slots=True)
class Kernels:
    """The library of kernels on this machine.

    Attributes:
        path: Where it is; None if it cannot be used.
        instructions: The instruction set that it uses on this processor; empty without a library.
        problem: Why it cannot be used; None if it can.
        remedy: What to do about the problem, where something can be done.
    """

    path: Path | None = None
    instructions: str = ""
    problem: str | None = None
    remedy: str | None = None


def kernels(folder: Path = HERE) -> Kernels:
    """The library of kernels in a folder, loaded, or why it cannot be used.

    The environment variable `GPT2RT_KERNELS` is `off`, or the name of an instruction set to use.
    Raises `InvalidSetting` for one that this processor or the library does not have.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == OFF:
        return Kernels(problem=f"turned off by {VARIABLE}={OFF}", remedy=f"unset {VARIABLE}")
    path = folder / Target.here().library
    loaded = _loaded(path)
    if isinstance(loaded, Kernels):
        return loaded
    best, library = loaded
    if not library.gpt2rt_use((wanted or best).encode()):
        raise InvalidSetting(
            f"{VARIABLE}={wanted!r}: there are no such kernels, or not for this processor; "
            f"unset it for {best}, or set it to {OFF}"
        )
    return Kernels(path, wanted or best)


@cache
def _loaded(path: Path) -> Kernels | tuple[str, ctypes.CDLL]:
    """The library and the best instruction set that it has for this processor, or the problem."""
    import onnxruntime as ort

    again = "install gpt2rt again"
    if not path.is_file():
        remedy = f"{again} where there is a C compiler; `pip install -v` tells what is missing"
        return Kernels(problem="not compiled when gpt2rt was installed", remedy=remedy)
    try:
        if not _whole(path):
            raise OSError("a part of the file is missing")
        library = ctypes.CDLL(str(path))
        library.gpt2rt_best.restype = ctypes.c_char_p
        best = library.gpt2rt_best().decode()
        ort.SessionOptions().register_custom_ops_library(native(path))
    except Exception as error:  # ONNX Runtime's errors have no common base
        reason = path_text(" ".join(str(error).split())[:300])
        return Kernels(problem=f"{path.name} cannot be loaded: {reason}", remedy=again)
    return best, library


def _whole(path: Path) -> bool:
    """Whether an ELF file has all its bytes; to load a shorter one would end the process.

    Its last part is the table of sections, whose place the header tells (System V ABI, chapter 4).
    """
    with path.open("rb") as file:
        header = file.read(64)
    if header[:4] != b"\x7fELF" or len(header) < 64:
        return True  # whatever it is, the loader says what is wrong with it
    (table,) = struct.unpack_from("<Q", header, 0x28)
    size, count = struct.unpack_from("<HH", header, 0x3A)
    return bool(path.stat().st_size >= table + size * count)


def has_kernels(graph: Path) -> bool:
    """Whether a graph file has functions that the kernels are for; an unreadable one has none."""
    try:
        parts = fields(graph.read_bytes())
        functions = [f for number, f in parts if number == FUNCTIONS and type(f) is bytes]
        return any((FUNCTION_DOMAIN, DOMAIN) in fields(function) for function in functions)
    except (OSError, ValueError):  # whoever opens it raises the error
        return False
