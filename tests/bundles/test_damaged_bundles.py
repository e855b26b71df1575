"""A damaged or crafted bundle in the library is listed as damaged and affects no other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Command, run_process
from gpt2rt.bundles import catalog, library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import GRAPH, MANIFEST, PARITY, WEIGHTS
from gpt2rt.cli import completion
from gpt2rt.errors import BadBundle
from gpt2rt_bench.machine import doctor
from gpt2rt_bench.micro.opening import Opening


def replaced(by: Callable[[Path], object]) -> Callable[[Path], object]:
    """Replaces the manifest by something else."""

    def damage(place: Path) -> None:
        (place / MANIFEST).unlink()
        by(place / MANIFEST)

    return damage


def written(text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda place: (place / MANIFEST).write_bytes(data)


def edited(**fields: object) -> Callable[[Path], object]:
    """Values of any type for the fields of a manifest."""

    def damage(place: Path) -> None:
        body = json.loads((place / MANIFEST).read_text())
        (place / MANIFEST).write_text(json.dumps({**body, **fields}))

    return damage


def moved(name: str) -> Callable[[Path], object]:
    def damage(place: Path) -> None:
        (place / MANIFEST).write_text("{}")
        place.rename(place.with_name(name))

    return damage


def dangling(place: Path) -> None:
    (place / WEIGHTS).unlink()
    (place / WEIGHTS).symlink_to("nowhere")


def gone(place: Path) -> None:
    shutil.rmtree(place)
    place.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": written(""),
    "no JSON": written("{"),
    "no UTF-8": written(b"\xff\xfe\x00"),
    "a list": written("[]"),
    "deep": written("[" * 100_000),
    "long": written(" " * (1 << 21)),
    "sparse": lambda place: os.truncate(place / MANIFEST, 1 << 40),
    "wrong types": edited(hparams=[], files=3, model={}, tools=None),
    "version": edited(version="x" * 10_000),
    "control characters": edited(**{"\x1b]0;evil\x07": 1}),
    "pipe": replaced(os.mkfifo),
    "directory": replaced(Path.mkdir),
    "device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "dangling": replaced(lambda path: path.symlink_to("nowhere")),
    "circle": replaced(lambda path: path.symlink_to(path.name)),
    "no graph": lambda place: (place / GRAPH).unlink(),
    "short weights": lambda place: (place / WEIGHTS).write_bytes(b""),
    "dangling weights": dangling,
    "link to nowhere": gone,
    "name": moved("evil\x1b]0;\x07\x9b\u202e\udcff"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_a_row_that_says_so(
    command: Command,
    exported: Callable[[str], Bundle],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    monkeypatch.setattr(doctor, "opening", lambda name, libraries=(): Opening(True, None, ()))
    monkeypatch.setattr(catalog, "demo_bundle", exported("117M").directory.resolve)
    exported("345M")
    DAMAGES[damage](exported("762M").directory)

    rows = [row for row in command("models", "--json").records if row["kind"] != "total"]
    (bad,) = [row for row in rows if row["kind"] == "damaged"]
    assert [row["name"] for row in rows if row["kind"] == "bundle"].count("345M-int8") == 1
    assert bad["name"] == Path(bad["directory"]).name
    assert Path(bad["directory"]).name in bad["error"]

    table = command("models")
    assert (table.code, table.err) == (0, "")
    (line,) = [line for line in table.out.splitlines() if " damaged " in line]
    assert not {*"\x1b\x07\x9b\u202e"} & {*table.out, *command("models", "--json").out}
    assert "345M" in table.out
    assert "bundles/" in line

    told = json.loads(command("doctor", "--json").out)
    assert "345M-int8" in told["models"]
    assert any(f["state"] == "bad" and f["subject"] == "models" for f in told["findings"])
    assert "345M-int8" in completion.model_names()
    assert "762M-int8" not in completion.model_names()


def test_a_damaged_bundle_is_told_where_it_was_asked_for(exported: Callable[[str], Bundle]) -> None:
    """It is not skipped in favour of another bundle, whatever its manifest is."""
    place = exported("117M").directory
    replaced(os.mkfifo)(place)
    for find in (library.default, lambda: library.find("117M"), lambda: library.find("124M-int8")):
        with pytest.raises(BadBundle, match="no regular file"):
            find()


def test_damage_of_the_library_itself_is_a_row(command: Command, home: Path) -> None:
    home.mkdir()
    (home / "bundles").symlink_to("bundles")
    (row, *_) = command("models", "--json").records
    assert (row["name"], row["kind"]) == ("bundles", "damaged")
    assert "345M-int8" not in completion.model_names()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("closed", ["", MANIFEST, PARITY, WEIGHTS])
def test_what_may_not_be_read_is_a_row(
    command: Command, exported: Callable[[str], Bundle], closed: str
) -> None:
    exported("345M")
    place = exported("762M").directory / closed
    place.touch()
    place.chmod(0)
    try:
        rows = {row["name"]: row["kind"] for row in command("models", "--json").records}
    finally:
        place.chmod(0o700)
    assert rows["345M-int8"] == "bundle"
    assert rows["762M-int8"] == ("damaged" if closed in ("", MANIFEST) else "bundle")


def test_a_removed_row_is_gone(command: Command, exported: Callable[[str], Bundle]) -> None:
    gone(exported("762M").directory)
    assert command("models", "remove", "762M-int8", "--yes").code == 0
    assert "762M-int8" not in {row["name"] for row in command("models", "--json").records}


@pytest.mark.slow
def test_a_shell_is_told_names_beside_a_damaged_bundle(
    exported: Callable[[str], Bundle],
) -> None:
    exported("345M")
    replaced(os.mkfifo)(exported("762M").directory)
    environment = {
        **os.environ,
        "_GPT2RT_COMPLETE": "complete_bash",
        "COMP_WORDS": "gpt2rt generate --model 3",
        "COMP_CWORD": "3",
    }
    ended = run_process(env=environment)
    assert (ended.code, ended.out.split(), ended.err) == (0, ["345M-int8"], "")
