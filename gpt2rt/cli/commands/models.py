"""`gpt2rt models`: what is exported and downloaded, where, and how it goes again."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from gpt2rt import Bundle, Defaults, HParams
from gpt2rt.bundles import catalog, library, storage
from gpt2rt.bundles.library import Damaged
from gpt2rt.bundles.paths import path_text
from gpt2rt.cli.output import tables
from gpt2rt.cli.output.printing import print_json
from gpt2rt.cli.output.terminal import escaped
from gpt2rt.errors import InvalidSetting

models = typer.Typer(name="models")

NOT_VERIFIED = "not verified"
NOTHING = {"parity": NOT_VERIFIED, "defaults": "none of its own"}

AsJson = Annotated[bool, typer.Option("--json", help="Print a line of JSON an item.")]

# What a variable belongs to, by the part of its name that tells.
PARTS = {
    "/wte": "token embedding",
    "/wpe": "position embedding",
    "/lm_head": "lm_head",
    "/attn/": "attention",
    "/mlp/": "MLP",
    "/ln_": "layer norms",
}


@models.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """List the exported bundles with precision, size and parity; fetched ones and checkpoints.

    The first column has the names that --model finds a bundle by. One that is damaged has a row
    that says how.

    Examples:

      gpt2rt models

      gpt2rt models --json

      gpt2rt models info 117M-int8

      gpt2rt models remove 117M-int8
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise InvalidSetting(f"write --json behind {context.invoked_subcommand}")
        return
    rows = [_row(bundle) for bundle in library.exported()]
    rows += [_stored(item, "fetched") for item in storage.fetched()]
    rows += [_stored(item, "checkpoint") for item in storage.checkpoints()]
    total, home = storage.total(), path_text(catalog.home())
    if as_json:
        rows.append({"name": "total", "kind": "total", "bytes": total, "directory": home})
        for row in rows:
            print_json(row)
    else:
        _table(rows)
        print(escaped(f"{_size(total)} on disk in {home}"))


@models.command()
def info(
    name: Annotated[str, typer.Argument(help="A name (117M-int8, demo) or a bundle's directory.")],
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a bundle: shape, parity, origin, hashes, what each part weighs.

    Examples:

      gpt2rt models info demo

      gpt2rt models info 117M-int8 --json
    """
    if name.startswith(f"{storage.CHECKPOINTS}/"):
        item = storage.find(name)
        files = {path.name: path.stat().st_size for path in sorted(item.directory.iterdir())}
        facts = {**_stored(item, "checkpoint"), "files": files}
    else:
        facts = _facts(library.find(name))
    if as_json:
        print_json(facts)
    else:
        _print(facts)


@models.command()
def remove(
    name: Annotated[str, typer.Argument(help="As `gpt2rt models` lists it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a bundle or a checkpoint from the home directory.

    Examples:

      gpt2rt models remove 117M-fp32

      gpt2rt models remove checkpoints/117M --yes
    """
    item = storage.find(name)
    size = item.bytes
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidSetting(f"{item.directory}: nobody to ask; remove it with --yes")
        typer.confirm(escaped(f"Remove {item.directory} ({_size(size)})?"), abort=True, err=True)
    item.remove()
    if as_json:
        place = path_text(item.directory)
        print_json({"name": path_text(item.name), "bytes": size, "directory": place})
    else:
        print(escaped(f"{item.directory}: removed, {_size(size)} free again"))


def _row(found: Bundle | Damaged) -> dict[str, Any]:
    if isinstance(found, Bundle):
        return describe(found)
    item = storage.Item(found.name, found.directory)
    return {**_stored(item, "damaged"), "error": found.error}


def _stored(item: storage.Item, kind: str) -> dict[str, Any]:
    place = path_text(item.directory)
    return {"name": path_text(item.name), "kind": kind, "bytes": item.bytes, "directory": place}


def describe(bundle: Bundle) -> dict[str, Any]:
    """A bundle as `--json` prints it; sizes in bytes, parity as the exporter measured it."""
    manifest = bundle.manifest
    return {
        "name": bundle.name,
        "kind": "bundle",
        "found_by": [path_text(name) for name in library.names_of(bundle)],
        "embedded": library.is_embedded(bundle),
        "model": manifest.model,
        "precision": manifest.precision,
        "graph": manifest.graph,
        "bytes": bundle.bytes,
        "tokenizer": manifest.tokenizer,
        "origin": manifest.origin,
        "parity": bundle.parity(),
        "directory": path_text(bundle.directory),
    }


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        **describe(bundle),
        "defaults": dict(Defaults.read(bundle).named),
        "hparams": manifest.hparams.as_dict(),
        "notes": list(manifest.notes),
        "parameters": _parameters(manifest.hparams),
        "tools": dict(manifest.tools),
        "files": {name: asdict(record) for name, record in manifest.files.items()},
    }


def _parameters(hparams: HParams) -> dict[str, int]:
    """How many numbers each part of the model has."""
    count: Counter[str] = Counter()
    for name, shape in hparams.variables().items():
        part = next(part for mark, part in PARTS.items() if mark in name)
        count[part] += math.prod(shape)
    return {**count, "all": count.total()}


def _print(facts: dict[str, Any]) -> None:
    """Facts below each other, the nested ones indented."""
    for key, value in facts.items():
        if key in NOTHING and not value:
            print(f"{key}: {NOTHING[key]}")
        elif isinstance(value, dict):
            print(f"{key}:")
            for name, inner in value.items():
                print(escaped(f"  {name}: {_inline(inner)}"))
        elif isinstance(value, list):
            for item in value:
                print(escaped(f"{key}: {item}"))
        else:
            print(escaped(f"{key}: {_size(value) if key == 'bytes' else value}"))


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_inline, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value}"


def _size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)


def _names(row: dict[str, Any]) -> str:
    """What a bundle is found by; one whose names another has, by its directory alone."""
    names = ", ".join(row["found_by"]) or f"{row['name']}, only by its directory"
    return f"{names} (embedded)" if row["embedded"] else names


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "precision", "graph", "size", "off by", "same best token", "directory"):
        table.add_column(title, justify="right" if title == "size" else "left", overflow="fold")
    for row in rows:
        size = _size(row["bytes"])
        if row["kind"] != "bundle":
            state, told = ("damaged", row["error"]) if "error" in row else ("", row["directory"])
            table.add_row(escaped(row["name"]), state, "", size, "", "", escaped(told))
            continue
        measured = row["parity"].get("uncached")
        off = f"{measured['relative']:.2g} σ" if measured else NOT_VERIFIED
        top1 = f"{measured['top1']:.1%}" if measured else ""
        cells = (_names(row), row["precision"], row["graph"], size, off, top1, row["directory"])
        table.add_row(*map(escaped, cells))
    tables.show(table)
