"""A module imports from its own room and from rooms below it: the list that docs show, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "gpt2rt": ROOT / "gpt2rt",
    "gpt2rt_export": ROOT / "export" / "gpt2rt_export",
    "gpt2rt_evals": ROOT / "bench" / "gpt2rt_evals",
    "gpt2rt_bench": ROOT / "bench" / "gpt2rt_bench",
}
# From the ground up.
ROOMS = [
    "gpt2rt.errors",
    "gpt2rt.bundles",
    "gpt2rt.text",
    "gpt2rt.sampling",
    "gpt2rt.engine",
    "gpt2rt.generation",
    "gpt2rt.scoring",
    "gpt2rt.model",
    "gpt2rt.runs",
    "gpt2rt_export.files",
    "gpt2rt_export.progress",
    "gpt2rt_export.fetch",
    "gpt2rt_export.sources",
    "gpt2rt_export.tokenizers",
    "gpt2rt_export.onnx_graph",
    "gpt2rt_export.verify",
    "gpt2rt_export",
    "gpt2rt_evals",
    "gpt2rt_bench.peers",
    "gpt2rt_bench",
    "gpt2rt.cli",
]


def name_of(path: Path) -> str:
    package = next(p for p, place in PACKAGES.items() if path.is_relative_to(place))
    inner = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(part for part in inner if part != "__init__")])


MODULES = {name_of(p): p for place in PACKAGES.values() for p in sorted(place.rglob("*.py"))}
NAMED_TUPLES = {"_replace", "_asdict", "_fields"}  # public methods in spite of their names
ENTRANCES = {"gpt2rt", "gpt2rt.__main__"}  # what a user imports and what `python -m` runs


def room(module: str) -> str:
    rooms = [r for r in ROOMS if module == r or module.startswith(f"{r}.")]
    return max(rooms, key=len)


def imported(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in below]
        yield from (name for name in names if name in MODULES)


@pytest.mark.parametrize("module", sorted(set(MODULES) - ENTRANCES))
def test_imports_point_down(module: str) -> None:
    level = ROOMS.index(room(module))
    for other in imported(MODULES[module]):
        if other == "gpt2rt":  # the public names
            assert level > ROOMS.index("gpt2rt.model"), f"{module} imports {other}"
        else:
            assert ROOMS.index(room(other)) <= level, f"{module} imports {other}"


def test_no_modules_import_each_other() -> None:
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


def private_names(path: Path) -> Iterator[str]:
    """The private names that a file uses and does not define: those of other modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used: dict[str, int] = {}
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.Attribute):
            used.setdefault(node.attr, node.lineno)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt2rt"):
            used |= {alias.name: node.lineno for alias in node.names}
    for name, line in used.items():
        public = not name.startswith("_") or name.startswith("__") or name in NAMED_TUPLES
        if not public and name not in own:
            yield f"{path}:{line} {name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_uses_private_names_of_another(module: str) -> None:
    assert not list(private_names(MODULES[module]))
