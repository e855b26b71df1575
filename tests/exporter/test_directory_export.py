"""A directory through `gpt2rt export`: what its bundle is called, and what goes into it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from checkpoints import huggingface_tensors, save_huggingface, values_of
from command_line import Command
from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CHAT_TEMPLATE
from gpt2rt.errors import InvalidSetting
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import HuggingFaceCheckpoint
from models import LargerWeights
from small_huggingface import SHAPE


@pytest.mark.slow
def test_a_directory_is_exported_and_found_by_its_name(
    command: Command, huggingface: Path, home: Path
) -> None:
    ended = command("export", huggingface, "--int8")
    assert ended.code == 0, ended.err
    assert (home / "bundles" / "model-int8").is_dir()
    assert "Try it: gpt2rt generate --model model-int8" in ended.out
    for name in ("model-int8", "model"):
        ended = command(
            "generate", "--model", name, "x", "--length", "3", "--no-end-of-text", "--json"
        )
        assert len(ended.records[0]["tokens"]) == 3


@pytest.mark.slow
def test_how_it_is_generated_with_is_carried(
    command: Command, huggingface: Path, tmp_path: Path
) -> None:
    settings = {"do_sample": True, "temperature": 0.7, "top_p": "hot", "max_length": 9}
    (huggingface / "generation_config.json").write_text(json.dumps(settings))
    ended = command("export", huggingface, "--no-verify", "--output", tmp_path / "out")
    assert "top_p is not used" in " ".join(ended.err.split())
    assert "max_length is not carried" in " ".join(ended.err.split())
    assert GPT2.load(tmp_path / "out").defaults.named == {"temperature": 0.7}


@pytest.mark.slow
def test_the_chat_template_is_carried(command: Command, huggingface: Path, tmp_path: Path) -> None:
    """Only how it is rendered is tested with the server."""
    (huggingface / "tokenizer_config.json").write_text('{"chat_template": "{{ eos_token }}"}')
    ended = command("export", huggingface, "--no-verify", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert CHAT_TEMPLATE in Bundle.open(tmp_path / "out").manifest.files
    written = (tmp_path / "out" / CHAT_TEMPLATE).read_text()
    assert written == '{% set eos_token = "<|endoftext|>" %}\n{{ eos_token }}'


@pytest.mark.slow
def test_a_model_may_have_many_more_ids_than_its_own_tokenizer(
    command: Command, tmp_path: Path
) -> None:
    """As of a small tokenizer beside `GPT2Config`'s default vocabulary."""
    hparams = replace(SHAPE, n_vocab=3000)
    tensors = huggingface_tensors(values_of(LargerWeights(hparams, 1)))
    folder = save_huggingface(tmp_path / "model", hparams, tensors)
    words = save_huggingface(tmp_path / "words", SHAPE, {})
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(words / name, folder / name)
    ended = command("export", folder, "--tokenizer", words, "--output", tmp_path / "out")
    assert "300 tokens, but the model's n_vocab is 3000" in ended.err
    ended = command("export", folder, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert GPT2.load(tmp_path / "out").tokenizer.n_vocab == 3000


@pytest.mark.slow
def test_a_tokenizer_from_elsewhere(command: Command, huggingface: Path, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (huggingface / name).rename(tmp_path / "words" / name)
    ended = command("export", huggingface, "--output", tmp_path / "out")
    assert ended.code == 1
    assert "no tokenizer there" in ended.err
    assert "--tokenizer DIR" in ended.err
    ended = command(
        "export", huggingface, "--output", tmp_path / "out", "--tokenizer", tmp_path / "words"
    )
    assert ended.code == 0, ended.err


def test_a_directory_of_a_released_name_needs_an_output(
    command: Command, huggingface: Path
) -> None:
    place = huggingface.rename(huggingface.with_name("117M"))
    ended = command("export", place)
    assert ended.code == 2
    assert "a bundle cannot be called '117M'; add --output DIR" in ended.in_one_line()
    assert (
        "is a checkpoint itself"
        in command("export", place, "--random-weights", "--output", "x").err
    )


def test_the_recipe_takes_a_name_of_the_users_own() -> None:
    assert Recipe("my-model", checkpoint=Path("x")).namesake is None
    with pytest.raises(InvalidSetting):
        Recipe("my-model", precision="int7")
    assert isinstance(HuggingFaceCheckpoint, type)
