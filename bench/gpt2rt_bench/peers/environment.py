"""Makes the Python environment of the peers, and asks one which modules it has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from gpt2rt.errors import Gpt2rtError, InvalidSetting

# As in the extra `peers`. llama-cpp-python is compiled, which takes minutes and a C++ compiler.
REQUIREMENTS = (
    "ctranslate2>=4.6,<5",
    "openvino>=2025.4",
    "nncf>=2.19",
    "torch>=2.6",
    "transformers>=5,<5.40",
    "safetensors>=0.4.3",
    "gguf>=0.17",
    "llama-cpp-python>=0.3.16,<0.4",
)

PROBE = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]))
"""


def missing(python: Path, modules: Iterable[str]) -> set[str]:
    """The `modules` that a Python does not have. Raises `InvalidSetting` where it does not run."""
    command = [str(python), "-c", PROBE, *modules]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return set(json.loads(ended.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        raise InvalidSetting(
            f"{python}: no Python that runs; name the peers' with --peers-python, "
            "or make one with `gpt2rt bench --make-peers DIR`"
        ) from None


def make(directory: Path, stage: Callable[[str], object] = lambda title: None) -> Path:
    """A virtual environment with every peer in `directory`; returns its Python.

    Packages that are there stay. Where one cannot be installed, the others still are; then a
    `Gpt2rtError` is raised that names it, with the last line of pip.
    """
    python = python_of(directory)
    if not python.exists():
        if directory.exists() and any(directory.iterdir()):
            raise InvalidSetting(f"{directory}: holds other things; choose a new directory")
        stage(f"Make {directory}")
        _run([sys.executable, "-m", "venv", str(directory)], f"{directory}: no environment")
    failures = []
    for requirement in REQUIREMENTS:
        stage(f"Install {requirement}")
        try:
            _run(
                [str(python), "-m", "pip", "install", requirement], f"{requirement}: not installed"
            )
        except Gpt2rtError as error:
            failures.append(str(error))
    if failures:
        raise Gpt2rtError("; ".join(failures))
    return python


def python_of(directory: Path) -> Path:
    """The Python of a virtual environment."""
    return directory / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _run(command: list[str], failure: str) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Gpt2rtError(f"{failure} ({error.strerror})") from None
    if ended.returncode:
        raise Gpt2rtError(f"{failure} ({last_error(ended.stderr or ended.stdout)})")


def last_error(output: str) -> str:
    """The line of a program's output that most likely says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it printed nothing"])[-1][:300]
