"""The examples of docs/examples, run as users would: their tokens are those of gpt2rt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from gpt2rt import GPT2, Bundle, SamplingParams, Stopping

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
HEADER = ROOT / "tests" / "helpers" / "c_interface"  # a stand-in for ONNX Runtime's
TEXT = "It's  the 3rd naïve test"
COUNT = 40


@pytest.fixture(scope="module")
def bundle(tiny_bundles: dict[str, Bundle]) -> Path:
    return tiny_bundles["fp32"].directory


@pytest.fixture(scope="module")
def expected(tiny_models: dict[str, GPT2]) -> tuple[list[int], list[int]]:
    """The tokens of `TEXT`, and with those that follow it."""
    model = tiny_models["fp32"]
    prompt = model.tokenizer.encode(TEXT)
    stopping = Stopping(length=COUNT - len(prompt))
    made = model.generate(prompt, SamplingParams(temperature=0), stopping)
    return list(prompt), [*prompt, *made.tokens]


def ran(*command: str | Path, **environment: str) -> str:
    ended = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_python(bundle: Path, expected: tuple[list[int], list[int]]) -> None:
    source = EXAMPLES / "bundle.py"
    found = json.loads(ran(sys.executable, source, bundle, TEXT, str(COUNT)))
    assert found["tokens"] == expected[1]
    assert found["text"].startswith(TEXT)
    assert "import gpt2rt" not in source.read_text(encoding="utf-8")


def test_node(bundle: Path, expected: tuple[list[int], list[int]]) -> None:
    node = shutil.which("node")
    modules = os.environ.get("NODE_PATH", str(ROOT / ".venv" / "node" / "node_modules"))
    if node is None or not (Path(modules) / "onnxruntime-node").is_dir():
        pytest.skip("needs Node with onnxruntime-node: `make node-runtime` gets it with npm")
    # Modules are looked for beside a program, not in NODE_PATH.
    place = bundle.parent / "node"
    place.mkdir()
    shutil.copy(EXAMPLES / "bundle.mjs", place)
    (place / "node_modules").symlink_to(modules)
    found = json.loads(ran(node, place / "bundle.mjs", bundle, TEXT, str(COUNT)))
    assert found["tokens"] == expected[1]
    assert found["text"].startswith(TEXT)


def test_c(bundle: Path, expected: tuple[list[int], list[int]], tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    libraries = [*(Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")]
    if compiler is None or not libraries:
        pytest.skip("needs a C compiler, and the library of ONNX Runtime's package for Linux")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(libraries[0])
    program, warnings = tmp_path / "bundle", ("-Wall", "-Wextra", "-Werror")
    place = (f"-L{tmp_path}", "-lonnxruntime", f"-Wl,-rpath,{tmp_path}")
    ran(compiler, *warnings, EXAMPLES / "bundle.c", f"-I{HEADER}", "-o", program, *place)
    prompt, tokens = expected
    found = ran(program, bundle, str(COUNT), *map(str, prompt))
    assert [*map(int, found.split())] == tokens
