"""Bundles in Simon Willison's `llm`: the real one, in a process and a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpt2rt import GPT2, Constraint, SamplingParams, Stopping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm") is None, reason="llm is not installed"),
]

ROOT = Path(__file__).parents[1]
MODEL = "gpt2rt/demo-int8"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `llm`, which knows the entry points of `pyproject.toml` whatever is installed.

    The only bundle of its home is damaged.
    """
    place = tmp_path_factory.mktemp("llm")
    damaged = place / "home" / "bundles" / "117M-int8"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = place / "path" / "plugin_of_gpt2rt-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-gpt2rt\nVersion: 1")
    points = project["entry-points"]["llm"].items()
    lines = ["[llm]", *(f"{name} = {module}" for name, module in points)]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    path = [str(installed.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "LLM_USER_PATH": str(place / "llm"),
        "GPT2RT_HOME": str(place / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONIOENCODING": "utf-8",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def demo() -> GPT2:
    return GPT2.load("demo")


def test_a_text_is_the_librarys_and_a_conversation_is_one_text(llm: Run, demo: GPT2) -> None:
    settings = ["-o", "seed", "3", "-o", "length", "9", "-o", "temperature", "0.8", "-o", "top_k"]
    params, stopping = SamplingParams(temperature=0.8, top_k=40, seed=3), Stopping(9)
    first = demo.generate("Once, in a", params, stopping)
    ended = llm("-m", MODEL, *settings, "40", "Once, in a")
    assert (ended.stdout, ended.stderr) == (first.text + "\n", "")
    second = demo.generate(f"Once, in a{first.text} Then", params, stopping)
    ended = llm("-c", *settings, "40", "--no-stream", "--usage", " Then")
    assert ended.stdout == second.text + "\n"
    assert f"{len(second.prompt_tokens)} input, {len(second.tokens)} output" in ended.stderr


@pytest.mark.skipif(find_spec("llguidance") is None, reason="llguidance is not installed")
def test_a_schema_is_kept(llm: Run, demo: GPT2) -> None:
    schema = '{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}'
    wanted = demo.generate(None, SamplingParams(seed=1), constraint=Constraint(json_schema=schema))
    assert llm("-m", MODEL, "-o", "seed", "1", "--schema", schema, "").stdout == wanted.text + "\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "top_p", "2"], "top_p must be above 0 and at most 1"),
        (["-o", "length", "0"], "length must be 1 or more"),
        (["-s", "Be kind."], "GPT-2 knows no system prompts"),
    ],
)
def test_an_error_is_told_in_a_line(llm: Run, arguments: list[str], said: str) -> None:
    ended = llm("-m", MODEL, *arguments, "Once")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {said}")
    assert ended.stderr.count("\n") == 1


def test_damaged_bundles_are_left_out(llm: Run) -> None:
    ended = llm("models", "-q", "gpt2rt")
    assert (ended.stdout, ended.returncode) == (f"Gpt2rt: {MODEL}\n", 0)
