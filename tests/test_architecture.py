"""Imports point one way, as the layers are drawn in the README."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = [
    {"errors", "hparams", "paths", "protobuf", "external_data"},
    {
        "catalog",
        "bundle",
        "library",
        "packing",
        "storage",
        "tokenizer",
        "tokenizers",
        "foreign_tokenizer",
        "prompts",
        "params",
        "stopping",
        "providers",
        "hugepages",
        "memory",
    },
    {"textfile", "history", "endings", "selection", "filters"},
    {"sampling", "constraint"},
    {"kvcache", "session", "prefixes"},
    {"cuda"},
    {"engine", "speculation"},
    {"beams"},
    {"generation"},
    {"alignment", "batching"},
    {"scoring"},
    {"surprisal", "embeddings"},
    {"model"},
    {"runs"},
    {"evals"},
    {"harness"},
    {"cli"},
]
SAME_LAYER = {("bundle", "catalog"), ("library", "bundle"), ("library", "catalog")}
SAME_LAYER |= {("library", "storage"), ("external_data", "protobuf")}
SAME_LAYER |= {("packing", "bundle"), ("packing", "catalog")}
SAME_LAYER |= {("providers", "bundle"), ("providers", "hugepages")}
SAME_LAYER |= {("storage", "bundle"), ("storage", "catalog")}
SAME_LAYER |= {("tokenizers", name) for name in ("catalog", "tokenizer", "foreign_tokenizer")}
SAME_LAYER |= {("prompts", "tokenizers")}
SAME_LAYER |= {("foreign_tokenizer", name) for name in ("catalog", "tokenizer")}
SAME_LAYER |= {("session", "kvcache"), ("hparams", "errors"), ("stopping", "params")}
EXPORTER_MAY_USE = {"errors", "hparams", "catalog", "bundle", "tokenizer", "providers", "session"}
EXPORTER_MAY_USE |= {"cuda", "tokenizers", "foreign_tokenizer", "protobuf"}


def modules(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if path.name != "__init__.py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", modules(ROOT / "gpt2rt"), ids=lambda p: str(p.relative_to(ROOT)))
def test_runtime_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "gpt2rt").parts[0].removesuffix(".py")
    if own == "__main__":
        return
    known = set().union(*LAYERS)
    for name in imported(path):
        if name.startswith("gpt2rt."):
            other = name.split(".")[1]
            if other in known and other != own and (own, other) not in SAME_LAYER:
                assert layer(other) < layer(own), f"{own} imports {other}"


def test_only_the_command_line_reaches_exporter_and_bench() -> None:
    for path in modules(ROOT / "gpt2rt"):
        reaches = {n.split(".")[0] for n in imported(path)} & {"gpt2rt_export", "gpt2rt_bench"}
        assert not reaches or "cli" in path.parts, f"{path} imports {reaches}"


def test_exporter_uses_only_the_contract() -> None:
    for path in modules(ROOT / "export" / "gpt2rt_export"):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "gpt2rt" and len(parts) > 1:
                assert parts[1] in EXPORTER_MAY_USE, f"{path.name} imports {name}"
