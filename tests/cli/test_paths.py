"""Paths beyond ASCII, in a locale that knows nothing else: real processes, real names."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from command_line import Command, Ended, run_process
from gpt2rt import GPT2
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.paths import local, path_text, portable

LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf-8": {"LC_ALL": "C.UTF-8"},
}
# The last is no UTF-8: `ü` as Latin-1 has it.
NAMES = {"umlaut": "bündel ü", "chinese": "模型", "latin-1": "b\udcfcndel"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")


@pytest.fixture(params=LOCALES)
def environment(request: pytest.FixtureRequest, home: Path) -> dict[str, str]:
    return {**os.environ, **LOCALES[request.param], "GPT2RT_HOME": str(home)}


@pytest.fixture(params=NAMES)
def place(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Path:
    """A directory with such a name; the tiny bundle in it has such a name, too."""
    folder = tmp_path / NAMES[request.param]
    shutil.copytree(model, folder / NAMES[request.param])
    return folder


def run(environment: dict[str, str], *arguments: str | Path) -> Ended:
    ended = run_process(*arguments, env=environment)
    assert (ended.code, ended.err) == (0, "")
    return ended


@pytest.mark.slow
def test_bundles_prompts_and_results_may_have_any_name(
    place: Path, environment: dict[str, str]
) -> None:
    bundle, prompts, out = place / place.name, place / "frage 提示.txt", place / "aus ü.jsonl"
    prompts.write_text("héllo\n", encoding="utf-8")
    options = ("--model", bundle, "--greedy", "--length", "3", "--threads", "1")
    text = run(environment, "generate", "héllo", *options).out
    run(environment, "generate", "--file", prompts, "--output", out, *options)
    (line,) = out.read_text(encoding="utf-8").splitlines()
    assert text.rstrip("\n") == json.loads(line)["text"]
    scored = run(environment, "score", "--file", prompts, "--model", bundle, "--json")
    assert scored.records[0]["tokens"]
    assert run(environment, "embed", "héllo", "--model", bundle).out


@pytest.mark.slow
def test_a_saved_run_finds_its_bundle_again_in_either_locale(
    place: Path, environment: dict[str, str], home: Path
) -> None:
    saved = place / "lauf ü.json"
    options = ("--model", place / place.name, "--seed", "1", "--length", "3", "--threads", "1")
    text = run(environment, "generate", "hello", *options, "--save-run", saved).out
    for other in LOCALES.values():
        again = {**os.environ, **other, "GPT2RT_HOME": str(home)}
        assert run(again, "generate", "--replay", saved).out == text


@pytest.mark.slow
def test_a_place_is_told_as_it_is_or_escaped(place: Path, environment: dict[str, str]) -> None:
    packed = place / "gepackt.gpt2rt"
    told = run(environment, "pack", place / place.name, "--output", packed).out
    assert path_text(place.name) in told
    shutil.copytree(place / place.name, Path(environment["GPT2RT_HOME"]) / "bundles" / place.name)
    rows = {row["name"]: row for row in run(environment, "models", "--json").records}
    found = rows["tiny-int8"]
    assert found["directory"].endswith(path_text(place.name))
    assert found["found_by"] == [path_text(place.name)]
    assert f"\n{found['found_by'][0]} " in run(environment, "models").out


@pytest.mark.slow
def test_a_checkpoint_may_have_any_name(place: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("tensorflow")
    if "\udcfc" in place.name:
        pytest.skip("TensorFlow takes no path that is not UTF-8")
    checkpoint = place / f"modèle {place.name}"
    shutil.copytree(catalog.demo_checkpoint(), checkpoint)
    ended = run_process("export", checkpoint, "--no-verify", env=environment)
    assert ended.code == 0, ended.err
    made = Path(environment["GPT2RT_HOME"]) / "bundles" / f"{checkpoint.name}-fp32"
    bundle = Bundle.open(made)
    bundle.check()
    assert bundle.manifest.model == checkpoint.name
    # It is found by its name, and its name makes the names of files.
    packed = run_process("pack", checkpoint.name, env=environment, cwd=place)
    assert packed.code == 0, packed.err
    shutil.rmtree(made)
    run(environment, "unpack", place / f"{bundle.name}.gpt2rt")
    Bundle.open(made).check()


@pytest.mark.slow
def test_a_checkpoint_whose_name_is_no_text_is_told(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    if "\udcfc" not in place.name:
        pytest.skip("of names that are not UTF-8")
    ended = run_process("export", place, "--no-verify")
    assert ended.code == 2
    assert "a bundle cannot be called 'b\\\\xfcndel'" in ended.in_one_line()


@pytest.mark.slow
def test_names_of_files_are_text_in_every_result(
    place: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """A file whose name is no UTF-8 costs no work; its name is the same text in each format."""
    file, name = place / f"{place.name}.txt", path_text(place / f"{place.name}.txt")
    file.write_text("one two\n")
    options = ("--file", file, "--model", place / place.name)
    page, vectors = tmp_path / "page.html", tmp_path / "vectors.jsonl"
    run_process("score", *options, "--html", page, env=environment)
    run_process("embed", *options, "--output", vectors, env=environment)
    assert json.dumps(name, ensure_ascii=False) in page.read_text(encoding="utf-8")
    assert json.loads(vectors.read_text(encoding="utf-8"))["source"] == name
    (record,) = run(environment, "score", *options, "--json").records
    assert record["source"] == name
    rows = csv.DictReader(run(environment, "score", *options, "--lines", "--csv").out.splitlines())
    assert [(row["source"], row["line"]) for row in rows] == [(name, "1")]


@pytest.mark.slow
def test_options_are_text_in_every_locale(
    place: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    model = ("--model", place / place.name)
    table = tmp_path / "table.csv"
    table.write_text("größe,é\n1,one\n", encoding="utf-8")
    scored = run(environment, "score", "--file", table, "--column", "é", "--json", *model)
    assert scored.records[0]["input"] == {"größe": "1"}
    options = ("--context", "é", "--bos", "none", "--json", *model)
    (text,) = run(environment, "score", "a", *options).records
    bits = GPT2.load(place / place.name, threads=1).score("a", context="é", bos=None).bits
    assert text["bits"] == bits
    run(environment, "embed", "bé é", "--word", "é", *model)
    if find_spec("llguidance") is None:
        pytest.skip("needs gpt2rt[constrain]")
    schema = tmp_path / "schéma.json"
    schema.write_text('{"const": "é"}', encoding="utf-8")
    grammar = 'start: "é"'
    for kind, value, wanted in (
        ("--regex", "é{2}", "éé"),
        ("--json-schema", '{"const": "é"}', '"é"'),
        ("--json-schema", schema, '"é"'),
        ("--grammar", grammar, "é"),
    ):
        assert run(environment, "generate", "a", kind, value, *model).out == f"{wanted}\n"


@pytest.mark.parametrize("option", ["--stop", "--regex", "--bad-word", "--logit-bias"])
def test_an_option_that_is_no_text_is_named(command: Command, option: str) -> None:
    ended = command("generate", "a", option, "a\udcff")
    assert f"{option} is not UTF-8 (byte 1)" in ended.in_one_line()


@pytest.mark.parametrize(
    ("name", "text"), [("a ü", "a ü"), ("b\udcfc", "b\\xfc"), ("\udcc3\udcbc", "ü"), ("模", "模")]
)
def test_the_text_of_a_path_is_unicode(name: str, text: str) -> None:
    assert path_text(name) == path_text(path_text(Path(name))) == text


@pytest.mark.parametrize("name", NAMES.values())
def test_a_path_is_the_same_text_whatever_the_locale(name: str) -> None:
    assert local(portable(name)) == name
