"""A module imports from its own room and from rooms below it, and modules are short."""

from __future__ import annotations

import ast
import re
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
    "gpt2rt.checks",
    "gpt2rt.cluster",
    "gpt2rt.bundles",
    "gpt2rt.kernels",
    "gpt2rt.text",
    "gpt2rt.sampling",
    "gpt2rt.engine",
    "gpt2rt.generation",
    "gpt2rt.scoring",
    "gpt2rt.model",
    "gpt2rt.asynchronous",
    "gpt2rt.serving",
    "gpt2rt.runs",
    "gpt2rt.corpus",
    "gpt2rt.llm_models",
    "gpt2rt_export.progress",
    "gpt2rt_export.fetch",
    "gpt2rt_export.sources",
    "gpt2rt_export.tokenizers",
    "gpt2rt_export.onnx_graph",
    "gpt2rt_export.verify",
    "gpt2rt_export.web",
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


def test_the_page_on_the_architecture_lists_these_rooms() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(?:export/|bench/)?(gpt2rt\S*?)(?:/|\.py)` \|", page)
    rooms = ROOMS[::-1]
    rooms.sort(key=lambda room: not room.startswith("gpt2rt."))
    assert [row.replace("/", ".") for row in rows] == rooms


# What the command line has from the runtime, beside the public names of the package `gpt2rt`.
COMMAND_LINE_HAS = {
    "gpt2rt.errors": "what can go wrong",
    "gpt2rt.cluster": "clusters of Ray, and their addresses",
    "gpt2rt.runs": "runs on record",
    "gpt2rt.model": "the defaults of its settings",
    "gpt2rt.engine.provider_table": "what providers are called",
    "gpt2rt.bundles.catalog": "which models there are, and the home directory",
    "gpt2rt.bundles.library": "bundles by name",
    "gpt2rt.bundles.fetching": "bundles from URLs",
    "gpt2rt.bundles.storage": "what they take on disk",
    "gpt2rt.bundles.packing": "bundles as one file",
    "gpt2rt.bundles.paths": "paths as text",
    "gpt2rt.bundles.writing": "files written whole or not at all",
    "gpt2rt.scoring.score": "numbers as JSON has them",
    "gpt2rt.text.textfile": "the text of files",
    "gpt2rt.text.controls": "characters that a terminal would obey",
    "gpt2rt.corpus.ray_data": "corpora on a cluster",
    "gpt2rt.corpus.corpus": "the rows of files",
    "gpt2rt.corpus.rows": "a row",
    "gpt2rt.corpus.names": "what standard input is called",
    "gpt2rt.corpus.readers": "what files of text are",
    "gpt2rt.corpus.streams": "how much of them was read",
    "gpt2rt.corpus.part": "the parts of a corpus",
    "gpt2rt.corpus.jobs": "what is done with them",
    "gpt2rt.corpus.loading": "how models are loaded",
    "gpt2rt.corpus.generate_job": "prompts of a corpus continued",
    "gpt2rt.corpus.score_job": "its texts scored",
    "gpt2rt.corpus.score_records": "the fields of scores",
    "gpt2rt.corpus.embed_job": "its texts embedded",
    "gpt2rt.corpus.tokenize_job": "its texts as tokens",
    "gpt2rt.corpus.local": "jobs done by this process",
    "gpt2rt.corpus.destination": "where results go",
    "gpt2rt.corpus.output": "results in files",
    "gpt2rt.corpus.ledger": "the job of an earlier run",
    "gpt2rt.corpus.values": "cells as JSON has them",
    "gpt2rt.corpus.tables": "records as lines",
    "gpt2rt.serving.server": "the HTTP server",
    "gpt2rt.serving.settings": "its settings",
    "gpt2rt.serving.replicas": "how it is spread over a cluster",
    "gpt2rt.serving.ray_serve": "the server on a cluster",
}


def test_the_command_line_uses_the_public_names() -> None:
    runtime = {name for name in MODULES if name.startswith("gpt2rt.")} - ENTRANCES
    commands = {name for name in runtime if room(name) == "gpt2rt.cli"}
    used = set().union(*(imported(MODULES[name]) for name in commands))
    assert used & (runtime - commands) == set(COMMAND_LINE_HAS)


def test_no_modules_import_each_other() -> None:
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


def private_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """The private names that a module defines, and those that it uses."""
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if own and isinstance(node.ctx, ast.Store) else used).add(node.attr)

    def private(names: set[str]) -> set[str]:
        return {name for name in names if name.startswith("_") and not name.startswith("__")}

    return private(defined), private(used)


# Methods that other libraries name so: namedtuples, and the evaluation harness.
OTHERS = {"_replace", "_loglikelihood_tokens"}
SOURCES = {**MODULES, **{str(p.relative_to(ROOT)): p for p in (ROOT / "tests").rglob("*.py")}}
PRIVATE = {
    name: private_names(ast.parse(path.read_text(encoding="utf-8")))
    for name, path in SOURCES.items()
}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_private_names_stay_in_their_module(module: str) -> None:
    defined, used = PRIVATE[module]
    everywhere = set().union(*(PRIVATE[name][0] for name in MODULES))
    assert not (used - defined - OTHERS) & everywhere


@pytest.mark.parametrize("module", sorted(set(MODULES) - ENTRANCES))
def test_modules_and_functions_are_short(module: str) -> None:
    """The functions of commands are exempt: their parameters are tables of options."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    if not module.startswith("gpt2rt.cli.commands."):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_test_files_are_short_and_each_has_a_name_of_its_own() -> None:
    lengths = {name: SOURCES[name].read_text(encoding="utf-8").count("\n") for name in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}
    names = [path.name for path in SOURCES.values() if path.name.startswith("test_")]
    assert len(set(names)) == len(names)


def test_no_two_classes_have_one_name() -> None:
    names = [
        node.name
        for path in MODULES.values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name in set(names) if names.count(name) > 1] == []
