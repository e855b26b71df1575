"""What the pages, the Dockerfile and the providers say of least versions is in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from gpt2rt.engine.provider_table import TABLE, Provider

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
PLUGINS = [row for row in TABLE.values() if row.plugin]


def least(requirements: Iterable[str]) -> dict[str, str]:
    """The least version of each package."""
    parsed = [Requirement(each) for each in requirements]
    return {
        each.name: specifier.version
        for each in parsed
        for specifier in each.specifier
        if specifier.operator == ">="
    }


def said(page: str, pattern: str) -> Iterator[str]:
    return (found[1] for found in re.finditer(pattern, (ROOT / page).read_text(encoding="utf-8")))


RUNTIME = least(PROJECT["dependencies"])["onnxruntime"]
PYTHON = PROJECT["requires-python"].removeprefix(">=")


@pytest.mark.parametrize(
    ("page", "pattern", "version"),
    [
        ("docs/install.md", r"- ONNX Runtime ([\d.]+) or later", RUNTIME),
        (
            "docs/install.md",
            r"for WebGPU ([\d.]+) or later",
            least(EXTRAS["webgpu"])["onnxruntime"],
        ),
        (
            "docs/providers.md",
            r"ONNX Runtime ([\d.]+), a GPU",
            least(EXTRAS["webgpu"])["onnxruntime"],
        ),
        ("docs/install.md", r"TensorFlow ([\d.]+) or later", least(EXTRAS["export"])["tensorflow"]),
        ("docs/install.md", r"- Python ([\d.]+) or later", PYTHON),
        ("docs/install.md", r"Python ([\d.]+) to", PYTHON),
        ("docs/index.md", r"Python ([\d.]+) to", PYTHON),
        ("README.md", r"Python ([\d.]+) to", PYTHON),
        ("CONTRIBUTING.md", r"Python ([\d.]+) to", PYTHON),
        ("Makefile", r"Python ([\d.]+) to", PYTHON),
        ("Dockerfile", r'"onnxruntime>=([\d.]+)"', RUNTIME),
    ],
)
def test_a_page_states_the_least_version(page: str, pattern: str, version: str) -> None:
    assert [*said(page, pattern)] == [version]


@pytest.mark.parametrize("requirements", [PROJECT["dependencies"], *EXTRAS.values()])
def test_packages_that_stand_for_each_other_have_one_least_version(requirements: list[str]) -> None:
    versions = least(requirements)
    for pair in (RUNTIMES, ("tensorflow", "tensorflow-cpu")):
        assert len({versions[name] for name in pair if name in versions}) < 2


@pytest.mark.parametrize("provider", PLUGINS, ids=lambda row: row.name)
def test_the_extra_of_a_plug_in_brings_the_onnx_runtime_that_it_needs(provider: Provider) -> None:
    brought = least([*PROJECT["dependencies"], *EXTRAS[provider.extra]])
    assert provider.package in brought
    for runtime in RUNTIMES:
        assert Version(brought[runtime]).release[:2] == provider.least_runtime
