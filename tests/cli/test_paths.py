"""Paths beyond ASCII, in a locale that knows nothing else: real processes, real names."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from command_line import Ended, run_process
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.text.paths import local, portable

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
    assert ("\\udcfc" if "\udcfc" in place.name else place.name) in told
    shutil.copytree(place / place.name, Path(environment["GPT2RT_HOME"]) / "bundles" / place.name)
    rows = {row["name"]: row for row in run(environment, "models", "--json").records}
    found = next(row["directory"] for row in rows.values() if row["name"] == "tiny-int8")
    assert found.endswith(place.name)
    assert run(environment, "models").out.count("tiny")


@pytest.mark.slow
def test_a_checkpoint_may_have_any_name(place: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("tensorflow")
    if "\udcfc" in place.name:
        pytest.skip("TensorFlow takes no path that is not UTF-8")
    shutil.copytree(catalog.demo_checkpoint(), place / "checkpoint")
    ended = run_process(
        "export", "demo", "--checkpoint", place / "checkpoint", "--no-verify",
        "--output", place / "new", env=environment,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    Bundle.open(place / "new").check()


@pytest.mark.parametrize("name", NAMES.values())
def test_a_path_is_the_same_text_whatever_the_locale(name: str) -> None:
    assert local(portable(name)) == name
