"""`gpt2rt models`: a row a bundle, damaged ones, too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from command_line import (
    Command,
    Edit,
)
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import MANIFEST, PARITY, WEIGHTS


def test_models_lists_each_bundle_as_json(
    command: Command, exported: Callable[[str], Bundle], edit_manifest: Edit
) -> None:
    small, large = exported("117M"), exported("1542M")
    parity = large.directory / PARITY
    measured = {"uncached": {"largest": 0.5, "relative": 0.25, "top1": 0.985}}
    parity.write_text(json.dumps(measured))
    edit_manifest(large, files={**large.manifest.files, PARITY: record(parity)})
    ended = command("models", "--json")
    assert ended.code == 0
    first, second, _, total = ended.records
    assert first == {
        "name": "117M-int8",
        "kind": "bundle",
        "found_by": ["117M-int8", "117M"],
        "embedded": False,
        "model": "117M",
        "precision": "int8",
        "graph": "fused",
        "bytes": small.bytes,
        "tokenizer": "synthetic",
        "origin": "test",
        "parity": {},
        "directory": str(small.directory),
    }
    assert second["name"] == "1542M-int8"
    assert total["kind"] == "total"
    assert total["bytes"] >= small.bytes + large.bytes
    assert second["parity"] == measured
    rows = command("models").out.splitlines()
    assert any("not verified" in row and row.startswith("117M") for row in rows)
    assert any("0.25 σ" in row and "98.5%" in row for row in rows)


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("damaged", [WEIGHTS, MANIFEST, PARITY])
def test_models_names_a_damaged_bundle_and_lists_the_others(
    command: Command,
    exported: Callable[[str], Bundle],
    edit_manifest: Edit,
    options: Sequence[str],
    damaged: str,
) -> None:
    good, bad = exported("345M"), exported("762M")
    (bad.directory / PARITY).write_text("{}")
    edit_manifest(bad, files={**bad.manifest.files, PARITY: record(bad.directory / PARITY)})
    (bad.directory / damaged).write_text("[]")  # as long as {}
    ended = command("models", *options)
    assert ended.code == 0
    assert str(good.directory) in ended.out
    (row,) = [line for line in ended.out.splitlines() if "762M" in line]
    assert "damaged" in row
    assert f"{bad.directory / damaged}: " in row
    assert ended.err == ""


def test_models_shows_a_place_as_it_is(
    command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither markup nor an emoji, and in one line, for the next program in the pipe."""
    home = tmp_path / "[bold]it's :smile: [/bold]" / ("long" * 50)
    monkeypatch.setenv("GPT2RT_HOME", str(home))
    shutil.copytree(model, home / "bundles" / "tiny-int8")
    assert f" {home / 'bundles' / 'tiny-int8'}" in command("models").out


def test_a_name_is_that_of_the_bundle_that_it_finds(
    command: Command,
    home: Path,
    model: Path,
    exported: Callable[[str], Bundle],
    edit_manifest: Edit,
) -> None:
    """Of the embedded demo and an exported one, the second has the name."""
    shutil.copytree(model, home / "embedded")
    edit_manifest(Bundle.open(home / "embedded"), model="demo")

    def found() -> dict[str, list[str]]:
        rows = command("models", "--json").records[:-1]
        assert rows[-1]["embedded"] is True
        for row in rows:
            for name in row["found_by"]:
                (facts,) = command("models", "info", name, "--json").records
                assert facts["directory"] == row["directory"]
        return {Path(row["directory"]).name: row["found_by"] for row in rows}

    assert found() == {"embedded": ["demo-int8", "demo"]}
    assert "demo-int8, demo (embedded)" in command("models").out
    exported("demo")
    assert found() == {"demo-int8": ["demo-int8", "demo"], "embedded": []}
    told = command("models").out
    assert "demo-int8, only by its directory (embedded)" in told
    assert "\ndemo-int8, demo " in told
