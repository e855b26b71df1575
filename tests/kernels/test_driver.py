"""Runs `driver.c`, the kernels' own test, with sanitizers and on every instruction set.

Its argument is an instruction set; it ends with 77 where the processor does not run it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gpt2rt.kernels import build

DRIVER = Path(__file__).parent / "driver.c"
EMULATION = Path(__file__).parent / "amx_emulation.h"
SKIPPED = 77
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARM = build.Target("", "linux", "aarch64", "aarch64-linux-musl")
HERE = build.Target.here()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver for this machine, by the system's compiler, since zig has no AddressSanitizer."""
    compiler = build.system_compiler()
    if compiler is None or HERE.system != "linux":
        pytest.skip("no compiler with sanitizers")
    made = tmp_path_factory.mktemp("driver") / "driver"
    build.compile_program(compiler, made, DRIVER, SANITIZERS)
    return made


@pytest.mark.slow
def test_the_kernels_for_amx_on_tiles_in_plain_c(tmp_path: Path) -> None:
    compiler = build.system_compiler()
    if compiler is None or HERE.machine != "x86_64":
        pytest.skip("no compiler for x86-64")
    build.compile_program(
        compiler, tmp_path / "driver", DRIVER, ("-O1", "-include", str(EMULATION))
    )
    run(tmp_path / "driver", "amx", 60)


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver for aarch64, where that can be compiled and run."""
    compiler = build.zig_compiler(ARM)
    if compiler is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("needs the package ziglang and qemu-aarch64")
    made = tmp_path_factory.mktemp("arm") / "driver"
    build.compile_program(compiler, made, DRIVER, ("-static",))
    return made


def run(*command: object) -> str:
    """What the driver says: a hash of everything that it computed."""
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if ended.returncode == SKIPPED:
        pytest.skip("this processor does not run it")
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("instructions", HERE.instruction_sets)
def test_the_kernels_of_this_machine(instructions: str, program: Path) -> None:
    run(program, instructions)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ARM.instruction_sets)
def test_the_kernels_of_aarch64_give_the_bits_of_this_machine(
    instructions: str, arm_program: Path, program: Path
) -> None:
    there = run("qemu-aarch64", "-cpu", "max", arm_program, instructions)
    assert there == run(program, "scalar")
