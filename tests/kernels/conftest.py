"""A compiled library with one operator that does little, in place of the kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2rt.kernels import build


@pytest.fixture(scope="session")
def compiler() -> build.Compiler:
    try:
        return build.compiler_for(build.Target.here())
    except build.NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stub(compiler: build.Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the library; its operator `Stub` doubles."""
    library = tmp_path_factory.mktemp("stub") / compiler.target.library
    build.compile_library(compiler, library, Path(__file__).parent / "stub")
    return library
