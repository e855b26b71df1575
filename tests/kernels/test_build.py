"""The library of kernels is compiled by whichever compiler can."""

from __future__ import annotations

import ctypes
import shutil
import stat
from pathlib import Path

import pytest

from gpt2rt.kernels import build

STUB = Path(__file__).parent / "stub"


def test_the_library_has_what_onnx_runtime_looks_for(stub: Path) -> None:
    assert hasattr(ctypes.CDLL(str(stub)), "RegisterCustomOps")
    assert [path.name for path in stub.parent.iterdir()] == [stub.name]


def test_an_error_names_the_line_and_keeps_the_library(
    compiler: build.Compiler, tmp_path: Path
) -> None:
    sources = shutil.copytree(STUB, tmp_path / "src")
    (sources / build.MANIFOLD).write_text("\nint broken\n")
    library = tmp_path / compiler.target.library
    library.write_text("the former one")
    with pytest.raises(build.DoesNotCompile, match=r"kernels\.c:\d"):
        build.compile_library(compiler, library, sources)
    assert library.read_text() == "the former one"
    assert sorted(path.name for path in tmp_path.iterdir()) == [library.name, "src"]


@pytest.mark.parametrize("tag", build.TARGETS)
def test_every_wheel_is_for_all_instruction_sets_of_its_machine(tag: str) -> None:
    target = build.Target.of(tag)
    assert target.machine in tag.replace("amd64", "x86_64").replace("arm64", "aarch64")
    assert target.instruction_sets == build.INSTRUCTION_SETS[target.machine]
    assert target.library == build.LIBRARIES[target.system]
    assert build.requirements(target) == [build.ZIG]


def test_another_platform_is_an_error_that_lists_them() -> None:
    with pytest.raises(build.NoCompiler, match="win_amd64"):
        build.Target.of("atari_st")


def test_other_machines_have_portable_code() -> None:
    assert [*build.Target("linux_riscv64", "linux", "riscv64").instruction_sets] == ["scalar"]


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_compiler_that_knows_too_little_is_not_taken(
    compiler: build.Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it compiles what needs no instruction set."""
    if compiler.zig:
        pytest.skip("the system has no compiler")
    own = shutil.which(compiler.command[0])
    refuse = 'case "$*" in *-mavx2*|*dotprod*) exit 1;; esac'
    monkeypatch.setenv("CC", script(tmp_path / "old", f'{refuse}\nexec {own} "$@"'))
    assert build.system_compiler() is None
    monkeypatch.setenv("CC", script(tmp_path / "new", f'exec {own} "$@"'))
    assert build.system_compiler() is not None
    assert build.requirements(build.Target.here()) == []


def test_without_a_compiler_zig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = build.Target.here()
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.NoCompiler, match="pip install ziglang"):
        build.compiler_for(here)
    monkeypatch.setattr(build, "ZIG_MACHINES", (here.machine,))
    monkeypatch.setattr("platform.machine", lambda: here.machine)
    assert build.requirements(here) == [build.ZIG]
    monkeypatch.setattr(build, "ZIG_MACHINES", ())
    assert build.requirements(here) == []
