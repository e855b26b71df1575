"""Finds the compiled library of kernels, and the graphs that it is for."""

from __future__ import annotations

import ctypes
import os
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
        way_out: What to do about the problem, where something can be done.
    """

    path: Path | None = None
    instructions: str = ""
    problem: str | None = None
    way_out: str | None = None


def kernels(folder: Path = HERE) -> Kernels:
    """The library of kernels in a folder, loaded, or why it cannot be used.

    The environment variable `GPT2RT_KERNELS` is `off`, or the name of an instruction set to use.
    Raises `InvalidSetting` for one that this processor or the library does not have.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == OFF:
        return Kernels(problem=f"turned off by {VARIABLE}={OFF}", way_out=f"unset {VARIABLE}")
    return _loaded(folder / Target.here().library, wanted)


@cache
def _loaded(path: Path, wanted: str) -> Kernels:
    import onnxruntime as ort

    again = "install gpt2rt again"
    if not path.is_file():
        remedy = f"{again} where there is a C compiler; `pip install -v` tells what is missing"
        return Kernels(problem="not compiled when gpt2rt was installed", way_out=remedy)
    try:
        library = ctypes.CDLL(str(path))
        library.gpt2rt_instruction_set.restype = ctypes.c_char_p
        chosen = not wanted or library.gpt2rt_use(wanted.encode())
        instructions = library.gpt2rt_instruction_set().decode()
        ort.SessionOptions().register_custom_ops_library(native(path))
    except Exception as error:  # ONNX Runtime's errors have no common base
        reason = path_text(" ".join(str(error).split())[:300])
        return Kernels(problem=f"{path.name} cannot be loaded: {reason}", way_out=again)
    if not chosen:
        raise InvalidSetting(
            f"{VARIABLE}={wanted!r}: there are no such kernels, or not for this processor; "
            f"unset it for {instructions}, or set it to {OFF}"
        )
    return Kernels(path, instructions)


def has_kernels(graph: Path) -> bool:
    """Whether a graph file has functions that the kernels are for; an unreadable one has none."""
    try:
        parts = fields(graph.read_bytes())
        functions = [f for number, f in parts if number == FUNCTIONS and type(f) is bytes]
        return any((FUNCTION_DOMAIN, DOMAIN) in fields(function) for function in functions)
    except (OSError, ValueError):  # whoever opens it raises the error
        return False
