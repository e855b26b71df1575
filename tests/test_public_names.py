"""The public names of `gpt2rt`, which are imported when they are first used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gpt2rt


def declared() -> dict[str, str]:
    """The public names as type checkers see them, each with its module."""
    tree = ast.parse(Path(gpt2rt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_names_are_what_type_checkers_see() -> None:
    names = declared()
    assert names.pop("errors") == "gpt2rt"
    assert set(names) == set(gpt2rt.__all__)
    for name, module in names.items():
        assert getattr(gpt2rt, name) is getattr(import_module(module), name)


def test_dir_lists_the_names_and_others_are_no_attributes() -> None:
    assert {*gpt2rt.__all__, "errors", "__version__"} <= set(dir(gpt2rt))
    with pytest.raises(AttributeError, match="module 'gpt2rt' has no attribute 'GPT3'"):
        gpt2rt.GPT3  # noqa: B018


def in_a_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_every_name_is_an_attribute_at_once() -> None:
    """Whatever was imported before it."""
    code = "import gpt2rt; gpt2rt.errors.BadText; [getattr(gpt2rt, n) for n in gpt2rt.__all__]"
    assert in_a_new_process(code).stderr == ""


def test_the_import_loads_nothing() -> None:
    code = "import sys, gpt2rt, json; print(json.dumps([*sys.modules]))"
    loaded = json.loads(in_a_new_process(code).stdout)
    assert [name for name in loaded if name.startswith("gpt2rt")] == ["gpt2rt"]
    assert not {"numpy", "onnxruntime", "regex"} & set(loaded)
