"""Compiles the library of kernels from the C files in `src`, one of them for every instruction set.

It runs while gpt2rt is being installed (`hatch_build.py`), so it imports only the standard library.
The compiler is the one of the system (`CC`, or cc, gcc, clang) if it knows every instruction set,
otherwise that of the package `ziglang`, which compiles for other platforms, too.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
MANIFOLD = "kernels.c"  # compiled once for every instruction set, the other files once
LIBRARIES = {"linux": "libgpt2rt.so", "macos": "libgpt2rt.dylib", "windows": "libgpt2rt.dll"}

PORTABLE = ("-DPORTABLE",)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "scalar": PORTABLE,
        "avx2": AVX2,
        "avx512": AVX512,
        "amx": (*AVX512, "-mamx-tile", "-mamx-int8"),
    },
    "aarch64": {"scalar": PORTABLE, "neon": ("-march=armv8.2-a+dotprod+fp16",)},
}
# Zig's names of processors are its own.
ZIG_FLAGS = {"-march=armv8.2-a+dotprod+fp16": "-mcpu=generic+v8_2a+dotprod+fullfp16"}

# Every instruction set gives the same bits: no multiplication is contracted with an addition.
COMPILE = (
    *("-O3", "-std=c11", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno"),
    *("-fvisibility=hidden", "-fPIC", "-Wall", "-Wextra"),
)
LINK = {
    "linux": ("-s", "-Wl,-z,defs", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-lm"),
    "macos": (),
    "windows": ("-s",),
}
PROBE = "#include <math.h>\n#include <stdint.h>\n#include <string.h>\ntypedef int probe;\n"

ZIG = "ziglang>=0.17"  # older ones refuse 512-bit operands in assembler
ZIG_MACHINES = ("x86_64", "AMD64", "aarch64", "arm64", "ARM64")  # that `ziglang` has wheels for

# A wheel's platform tag -> zig's name of the platform.
TARGETS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
    "win_arm64": "aarch64-windows-gnu",
}


class NoCompiler(Exception):
    """There is no C compiler that can compile the kernels; the message says what to do."""


class DoesNotCompile(Exception):
    """The compiler refused a file; the message is its own."""


@dataclass(frozen=True, slots=True)
class Target:
    """A platform to compile for.

    Attributes:
        tag: The platform tag of a wheel for it.
        system: `linux`, `macos` or `windows`.
        machine: `x86_64`, `aarch64`, or another, for which there is portable code only.
        triple: Zig's name of it; None is the platform that this Python runs on.
    """

    tag: str
    system: str
    machine: str
    triple: str | None = None

    @classmethod
    def here(cls) -> Target:
        """The platform that this Python runs on."""
        system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")
        machine = platform.machine().lower()
        tag = f"macosx_11_0_{machine}" if system == "macos" else sysconfig.get_platform()
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
        return cls(tag.replace("-", "_").replace(".", "_"), system, machine)

    @classmethod
    def of(cls, tag: str) -> Target:
        """The platform of a wheel's tag, one of `TARGETS`. Raises `NoCompiler` for another."""
        if tag not in TARGETS:
            raise NoCompiler(f"no platform {tag!r}; there are {', '.join(TARGETS)}")
        machine, system = TARGETS[tag].split("-")[:2]
        return cls(tag, system.partition(".")[0], machine, TARGETS[tag])

    @property
    def library(self) -> str:
        """The file name of the library."""
        return LIBRARIES[self.system]

    @property
    def instruction_sets(self) -> dict[str, tuple[str, ...]]:
        """The names of the instruction sets that are compiled for, with the compiler's flags."""
        return INSTRUCTION_SETS.get(self.machine, {"scalar": PORTABLE})


@dataclass(frozen=True, slots=True)
class Compiler:
    """A command that compiles C for a target, with the flags that choose the target."""

    command: tuple[str, ...]
    target: Target

    def run(self, arguments: Sequence[str]) -> None:
        """Compile or link. Raises `DoesNotCompile`."""
        command = [*self.command, *(ZIG_FLAGS.get(a, a) if self.zig else a for a in arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if ended.returncode:
            raise DoesNotCompile(f"{shlex.join(command)}\n{ended.stderr}")

    @property
    def zig(self) -> bool:
        """Whether it is zig's."""
        return "ziglang" in self.command

    def works(self) -> bool:
        """Whether it compiles a library for every instruction set of the target."""
        with tempfile.TemporaryDirectory() as place:
            Path(place, MANIFOLD).write_text(PROBE)
            try:
                compile_library(self, Path(place, self.target.library), Path(place))
            except (DoesNotCompile, OSError):
                return False
        return True


def system_compiler() -> Compiler | None:
    """The system's compiler, if it knows every instruction set of this machine's kind."""
    target = Target.here()
    if target.system == "windows":  # GCC does not align vectors on the stack there
        return None
    least = ("-mmacosx-version-min=11.0",) if target.system == "macos" else ()
    chosen = os.environ.get("CC")
    for name in (chosen,) if chosen else ("cc", "gcc", "clang"):
        command = shlex.split(name)
        if shutil.which(command[0]):
            found = Compiler((*command, *least), target)
            if found.works():
                return found
    return None


def zig_compiler(target: Target) -> Compiler | None:
    """Zig's compiler for a target, if the package `ziglang` is installed."""
    if find_spec("ziglang") is None:
        return None
    # By itself, zig would compile for exactly this processor.
    chosen = ("-mcpu=baseline",) if target.triple is None else ("-target", target.triple)
    return Compiler((sys.executable, "-m", "ziglang", "cc", *chosen), target)


def compiler_for(target: Target) -> Compiler:
    """A compiler for a target. Raises `NoCompiler`."""
    own = system_compiler() if target.triple is None else None
    found = own or zig_compiler(target)
    if found is None:
        raise NoCompiler(
            "no C compiler that knows this machine's instruction sets; install gcc 11, clang 12 "
            "or newer, or `pip install ziglang`"
        )
    return found


def requirements(target: Target) -> list[str]:
    """The packages that compiling for a target needs: none if the system's compiler can."""
    if target.triple is None and (system_compiler() or platform.machine() not in ZIG_MACHINES):
        return []
    return [ZIG]


def compile_library(compiler: Compiler, output: Path, sources: Path = SOURCES) -> None:
    """Compile the library of kernels into the file `output`. Raises `DoesNotCompile`."""
    files = sorted(sources.glob("*.c"))
    _link(compiler, output, files, link=("-shared", *LINK[compiler.target.system]))


def compile_program(
    compiler: Compiler, output: Path, main: Path, flags: Sequence[str], sources: Path = SOURCES
) -> None:
    """Compile a program of the kernels and the C file `main` into `output`, for tests.

    `flags` are for the compiler and the linker. Raises `DoesNotCompile`.
    """
    files = [*sorted(sources.glob("*.c")), main]
    _link(compiler, output, files, (*flags, f"-I{sources}"), ("-lm",))


def _link(
    compiler: Compiler,
    output: Path,
    files: Sequence[Path],
    flags: Sequence[str] = (),
    link: Sequence[str] = (),
) -> None:
    """Compile C files side by side, link them, and replace `output` at once."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".compiling-") as place:
        calls = list(_calls(compiler.target, files))
        objects = [str(Path(place, f"{number}.o")) for number in range(len(calls))]
        pairs = zip(calls, objects, strict=True)
        commands = [(*COMPILE, *flags, *call, "-o", made) for call, made in pairs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compiler.run, commands))
        linked = Path(place, output.name)
        compiler.run([*flags, *objects, *link, "-o", str(linked)])
        linked.replace(output)


def _calls(target: Target, files: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """The arguments of each call of the compiler that makes an object file."""
    for file in files:
        if file.name == MANIFOLD:
            for name, flags in target.instruction_sets.items():
                yield (f"-DISA={name}", *flags, "-c", str(file))
        else:
            yield ("-c", str(file))


if __name__ == "__main__":
    if sys.argv[1:] == ["targets"]:  # for `make wheels`
        print(*TARGETS)
    else:
        here = Target.here()
        compile_library(compiler_for(here), HERE / here.library)
