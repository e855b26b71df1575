"""Describes the machine of a measurement: processor, cores, memory and versions.

A fact that needs an optional library is None where that is not installed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from gpt2rt import __version__
from gpt2rt.engine.providers import physical_cores
from gpt2rt.kernels.library import kernels

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "tensorflow-cpu", "tensorflow", "onnx")

# Instruction sets that kernels use -> names that systems have for them.
INSTRUCTIONS = {
    "AVX2": ("avx2",),
    "FMA": ("fma",),
    "F16C": ("f16c",),
    "AVX512": ("avx512f",),
    "AVX-VNNI": ("avx_vnni",),
    "AVX512-VNNI": ("avx512_vnni", "avx512vnni"),
    "AVX512-BF16": ("avx512_bf16",),
    "AVX512-FP16": ("avx512_fp16",),
    "AMX-INT8": ("amx_int8", "amx-int8"),
    "AMX-BF16": ("amx_bf16", "amx-bf16"),
    "NEON": ("asimd", "neon"),
    "NEON dot product": ("asimddp", "dotprod"),
    "NEON fp16": ("asimdhp", "fphp"),
    "NEON i8mm": ("i8mm",),
    "SVE": ("sve",),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts of a machine; memory in bytes; None where not known.

    `kernels` is the instruction set that gpt2rt's own kernels use; empty where they cannot be used.
    """

    processor: str
    architecture: str
    instructions: tuple[str, ...] | None
    kernels: str
    physical_cores: int | None
    logical_cores: int | None
    allowed_cores: int
    threads: int
    memory: int | None
    free_memory: int | None
    system: str
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls) -> Machine:
        """This machine; `threads` is the default number of a model's threads."""
        memory = _memory()
        return cls(
            processor=_processor(),
            architecture=platform.machine(),
            instructions=_instructions(),
            kernels=kernels().instructions,
            physical_cores=_cores(logical=False),
            logical_cores=_cores(logical=True),
            allowed_cores=_allowed(),
            threads=physical_cores(),
            memory=memory[0],
            free_memory=memory[1],
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            versions={"gpt2rt": __version__, **installed(PACKAGES)},
        )

    def has(self, *names: str) -> bool | None:
        """Whether it has one of these instruction sets; None where not known."""
        return None if self.instructions is None else any(n in self.instructions for n in names)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def limitation(precision: str, provider: str, machine: Machine) -> str | None:
    """Why a precision gains no speed on a machine, or less than on others; None: it gains it."""
    if provider != "cpu":
        return None
    if precision == "fp16" and not machine.kernels:
        return "fp16 is no faster without gpt2rt's kernels: ONNX Runtime's read float32 weights"
    vnni = machine.has("AVX-VNNI", "AVX512-VNNI", "AMX-INT8", "NEON dot product")
    if precision in ("int8", "int4") and vnni is False:
        return (
            f"{precision} helps a token read fewer bytes; batches and prompts gain less than on a "
            "processor with instructions for 8-bit products (VNNI, AMX or NEON's dot product)"
        )
    return None


def _processor() -> str:
    if find_spec("archspec") is not None:
        import archspec.cpu

        if name := archspec.cpu.brand_string():
            return str(name)
    return platform.processor() or platform.machine()


def _instructions() -> tuple[str, ...] | None:
    if find_spec("archspec") is None:
        return None
    from archspec.cpu import detect

    features = detect.detected_info().features
    return tuple(name for name, flags in INSTRUCTIONS.items() if features & set(flags))


def _cores(*, logical: bool) -> int | None:
    if find_spec("psutil") is None:
        return os.cpu_count() if logical else None
    import psutil

    return psutil.cpu_count(logical=logical)


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[int | None, int | None]:
    if find_spec("psutil") is None:
        return None, None
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available
