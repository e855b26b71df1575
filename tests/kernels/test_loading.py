"""The library of kernels computes a graph's functions; without it, their bodies do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from gpt2rt.engine import providers
from gpt2rt.engine.providers import Threads, open_session
from gpt2rt.errors import InvalidSetting
from gpt2rt.kernels import build
from gpt2rt.kernels.library import DOMAIN, VARIABLE, has_kernels, kernels

X = np.array([1.5, -2.0], np.float32)
OF_THE_KERNEL, OF_THE_BODY = 2 * X, X * X  # unlike real ones, these two differ
ONES = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN.decode(), 1)]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph of one function, which the stub has a kernel for."""
    body = [helper.make_node("Mul", ["x", "x"], ["y"])]
    function = helper.make_function(DOMAIN.decode(), "Stub", ["x"], ["y"], body, ONES[:1])
    return save(tmp_path / "graph.onnx", DOMAIN.decode(), "Stub", [function])


def save(path: Path, domain: str, name: str, functions: list[onnx.FunctionProto]) -> Path:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    inner = helper.make_graph([node], "g", [x], [y])
    made = helper.make_model(inner, opset_imports=ONES, functions=functions, ir_version=10)
    onnx.save(made, path)
    return path


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def opened(graph: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ort.InferenceSession:
    monkeypatch.setattr(providers, "kernels", lambda: kernels(folder))
    return open_session(graph, Threads(1))


def prepacks(session: ort.InferenceSession) -> bool:
    entry = session.get_session_options().get_session_config_entry
    return bool(entry("session.disable_prepacking") == "0")


def test_the_kernel_computes_the_function(
    stub: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the session reads the weights where the file is mapped."""
    session = opened(graph, stub.parent, monkeypatch)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], OF_THE_KERNEL)
    assert not prepacks(session)
    assert providers.kernels_for(graph, "cpu").instructions == "scalar"
    assert providers.kernels_for(graph, "cuda").instructions == ""


@pytest.mark.parametrize("name", ["é ü", os.fsdecode(b"\xff"), "a" * 100])
def test_the_library_may_be_in_any_folder(
    name: str, stub: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no name of a folder here")
    shutil.copy(stub, folder)
    session = opened(graph, folder, monkeypatch)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], OF_THE_KERNEL)


def test_turned_off_the_body_computes_it(
    stub: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    session = opened(graph, stub.parent, monkeypatch)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], OF_THE_BODY)
    assert prepacks(session)
    assert kernels(stub.parent).problem == "turned off by GPT2RT_KERNELS=off"


def test_without_a_library_the_body_computes_it(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(graph, tmp_path, monkeypatch)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], OF_THE_BODY)
    found = kernels(tmp_path)
    assert found.path is None
    assert "not compiled" in (found.problem or "")
    assert "C compiler" in (found.remedy or "")


def test_a_library_of_another_platform_is_told_in_a_line(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / build.Target.here().library).write_bytes(b"\x7fELF of elsewhere\n" * 9)
    session = opened(graph, tmp_path, monkeypatch)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], OF_THE_BODY)
    problem = kernels(tmp_path).problem or ""
    assert "cannot be loaded" in problem
    assert "\n" not in problem


def test_a_library_that_is_not_ours_is_told(compiler: build.Compiler, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "other.c").write_text("int other;\n")
    build.compile_library(compiler, tmp_path / compiler.target.library, tmp_path / "src")
    assert "gpt2rt_best" in (kernels(tmp_path).problem or "")


def test_the_variable_names_an_instruction_set(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "scalar")
    assert kernels(stub.parent).instructions == "scalar"
    monkeypatch.setenv(VARIABLE, "mmx")
    with pytest.raises(InvalidSetting, match="GPT2RT_KERNELS='mmx'"):
        kernels(stub.parent)


def test_graphs_without_our_functions_take_no_kernels(graph: Path, tmp_path: Path) -> None:
    assert has_kernels(graph)
    assert not has_kernels(save(tmp_path / "plain.onnx", "", "Abs", []))
    body = [helper.make_node("Abs", ["x"], ["y"])]
    other = helper.make_function("other", "Stub", ["x"], ["y"], body, ONES[:1])
    assert not has_kernels(save(tmp_path / "other.onnx", "other", "Stub", [other]))
    assert not has_kernels(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(graph.read_bytes()[:-1])
    assert not has_kernels(tmp_path / "broken.onnx")


def test_what_is_installed_can_be_used() -> None:
    if build.system_compiler() is None and kernels().path is None:
        pytest.skip("gpt2rt was installed where there is no compiler")
    assert kernels().problem is None, "`make kernels` compiles them"


@pytest.mark.parametrize("kept", [0, 64, 1000, 0.5, 0.99])
def test_a_library_with_a_part_missing_is_told_and_not_loaded(kept: float, tmp_path: Path) -> None:
    """To load it would end the process."""
    if kernels().path is None:
        pytest.skip(f"no kernels: {kernels().problem}")
    whole = kernels().path.read_bytes()  # type: ignore[union-attr]
    size = int(kept * len(whole)) if 0 < kept < 1 else int(kept)
    (tmp_path / kernels().path.name).write_bytes(whole[:size])  # type: ignore[union-attr]
    assert "cannot be loaded" in (kernels(tmp_path).problem or "")


def test_the_set_in_use_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels().path is None:
        pytest.skip(f"no kernels: {kernels().problem}")
    best = kernels().instructions
    monkeypatch.setenv(VARIABLE, "scalar")
    assert kernels().instructions == "scalar"
    monkeypatch.delenv(VARIABLE)
    assert kernels().instructions == best
