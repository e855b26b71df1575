"""A fine-tune's `generation_config.json`: exported, shown, and used below explicit options."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from command_line import Command, Edit
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import DEFAULTS
from gpt2rt.errors import BadBundle, BadCheckpoint, InvalidSetting
from gpt2rt.generation.defaults import NAMES, Defaults
from gpt2rt_export.generation_config import CARRIED, carried, write_defaults

# As `GenerationConfig.save_pretrained` of Transformers 5.24 writes it.
SAVED = """{
  "do_sample": true,
  "max_new_tokens": 50,
  "no_repeat_ngram_size": 3,
  "repetition_penalty": 1.2,
  "temperature": 0.7,
  "top_k": 40,
  "top_p": 0.9,
  "transformers_version": "5.24.0"
}"""
SAVED_HERE = {
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.2,
    "no_repeat_ngram": 3,
    "length": 50,
}
# OpenAI's own on the Hub: nothing of drawing.
GPT2S = {"_from_model_config": True, "bos_token_id": 50256, "eos_token_id": 50256}


def put(bundle: Bundle, edit_manifest: Edit, named: object) -> Path:
    """Adds a `defaults.json` to a bundle."""
    path = bundle.directory / DEFAULTS
    path.write_text(json.dumps(named))
    edit_manifest(bundle, files={**bundle.manifest.files, DEFAULTS: record(path)})
    return bundle.directory


@pytest.fixture
def plain(bundle: Bundle) -> Path:
    """The same bundle without defaults."""
    return Path(shutil.copytree(bundle.directory, bundle.directory.with_name("plain")))


def test_what_transformers_saved_is_carried_whole() -> None:
    assert carried(json.loads(SAVED)) == (SAVED_HERE, [])
    defaults = Defaults.of(SAVED_HERE)
    assert defaults.params == SamplingParams(
        0.7, 40, 0.9, repetition_penalty=1.2, no_repeat_ngram=3
    )
    assert defaults.stopping == Stopping(50)


def test_every_setting_has_a_place() -> None:
    assert set(CARRIED.values()) == set(NAMES)
    assert carried(GPT2S) == ({}, [])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"do_sample": False, "temperature": 0.7, "top_k": 5}, {"temperature": 0.0, "top_k": 5}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": True}, {}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": None, "top_k": None}, {}),
    ],
)
def test_without_sampling_it_is_greedy(config: dict[str, Any], named: dict[str, float]) -> None:
    assert carried(config) == (named, [])


@pytest.mark.parametrize("name", CARRIED)
@pytest.mark.parametrize("value", ["hot", math.nan, math.inf, -1, True, [1], {"a": 1}])
def test_a_value_that_means_nothing_is_named_and_not_used(name: str, value: Any) -> None:
    named, notes = carried({name: value})
    assert CARRIED[name] not in named
    assert len(notes) == 1
    assert name in notes[0]
    assert "is not used" in notes[0]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"max_length": 100}, "counts the prompt"),
        ({"num_beams": 4}, "--beams"),
        ({"watermarking_config": {"bias": 2}}, "no such default"),
        ({"do_sample": "yes"}, "true or false"),
        ({"max_new_tokens": 3, "min_new_tokens": 5}, "more than the length"),
    ],
)
def test_what_is_not_carried_is_named(config: dict[str, Any], told: str) -> None:
    (note,) = carried(config)[1]
    assert set(config) & set(note.split())
    assert told in note


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\ufeff{"])
def test_a_damaged_file_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=r"generation_config\.json"):
        write_defaults(tmp_path, tmp_path)


def test_a_bundle_gives_them_back(bundle: Bundle, edit_manifest: Edit) -> None:
    assert Defaults.read(bundle) == Defaults()
    place = put(bundle, edit_manifest, SAVED_HERE)
    assert GPT2.load(place, threads=1).defaults == Defaults.of(SAVED_HERE)


@pytest.mark.parametrize("named", [{"temperature": "hot"}, {"nosuch": 1}, [], 5, [[1, 2]]])
def test_a_bundle_with_nonsense_is_refused(
    bundle: Bundle, edit_manifest: Edit, named: object
) -> None:
    place = put(bundle, edit_manifest, named)
    if named == []:  # no settings are none
        return
    with pytest.raises(BadBundle, match="no settings"):
        Defaults.read(Bundle.open(place))


def test_names_are_checked() -> None:
    with pytest.raises(InvalidSetting, match="nosuch is no default"):
        Defaults.of({"nosuch": 1})


def test_models_info_shows_them(
    command: Command, bundle: Bundle, edit_manifest: Edit, plain: Path
) -> None:
    place = put(bundle, edit_manifest, {"temperature": 0.7, "length": 5})
    assert "defaults: none of its own\n" in command("models", "info", plain).out
    assert "defaults:\n  temperature: 0.7\n  length: 5\n" in command("models", "info", place).out
    (facts,) = command("models", "info", place, "--json").records
    assert facts["defaults"] == {"temperature": 0.7, "length": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        ([], ["--temperature", "0.5", "--top-k", "3", "--length", "6"]),
        (["--top-k", "0"], ["--temperature", "0.5", "--length", "6"]),
        (["--greedy"], ["--greedy", "--top-k", "3", "--length", "6"]),
        (["--temperature", "2"], ["--temperature", "2", "--top-k", "3", "--length", "6"]),
        (["--length", "2"], ["--temperature", "0.5", "--top-k", "3", "--length", "2"]),
    ],
)
def test_what_a_person_says_comes_first(
    command: Command,
    bundle: Bundle,
    edit_manifest: Edit,
    plain: Path,
    given: list[str],
    same_as: list[str],
) -> None:
    place = put(bundle, edit_manifest, {"temperature": 0.5, "top_k": 3, "length": 6})
    common = ("-m", place, "--seed", "1")
    asked = command("generate", "the", *common, "--model-defaults", *given)
    assert asked.err == ""
    assert asked.out == command("generate", "the", *common, *same_as).out
    unasked = ("--greedy", "--length", "4")
    without = command("generate", "the", "-m", plain, *unasked)
    assert command("generate", "the", "-m", place, *unasked).out == without.out
    options = (*common, "--model-defaults", *given)
    shown = command("interactive", *options, stdin=b"/set top_k\n/quit\n")
    assert f"top_k {0 if '--top-k' in given else 3}\n" in shown.out


def test_a_model_without_any_says_so(command: Command, model: Path) -> None:
    ended = command("generate", "the", "-m", model, "--model-defaults", "--greedy", "--length", "2")
    assert ended.code == 0
    assert "tiny-int8 has no defaults of its own" in ended.err
