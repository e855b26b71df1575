"""`gpt2rt eval`: from the files of every task to its figures, stopped and killed runs, misuse."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Command, Ended, finish, run_process, start
from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt_evals.model import BundleModel, LanguageModel
from gpt2rt_evals.registry import TASKS, find
from gpt2rt_evals.run import EvalRun
from models import SHARED
from small_files import PASSAGES, STORY, cloze, written


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a small data set for every task."""
    place = tmp_path / "data"
    place.mkdir()
    written(place / "lambada_test.jsonl", PASSAGES[:3])
    written(place / "wiki.test.raw", [" = Title = ", " ", " A cat @-@ like , n 't it ? "])
    written(place / "ptb.test.txt", [" no it was n't black monday "])
    (place / "enwik8").write_text("<page>\n  <title>Anarchism</title>\n")
    (place / "text8").write_text(" anarchism originated as a term of abuse")
    written(place / "news.en.heldout-00000-of-00050", ["Yes .", 'He said " no " .'])
    written(place / "cbt_valid.txt", ["_BOOK_TITLE_ : a.txt", *STORY])
    for kind in ("CN", "NE"):
        written(
            place / f"cbtest_{kind}_valid_2000ex.txt",
            cloze("The XXXXX barked .", "dog", ["cat", "dog"]),
        )
    schema = {"sentence": "It fits [it].", "answer0": "a", "answer1": "The b"}
    (place / "WSC_associative_label.json").write_text(
        json.dumps([{**schema, "correct_answer": "a"}])
    )
    turn = {"input_text": "what?"}
    story = {"story": "A story. " * 40, "questions": [turn, turn], "answers": [turn, turn]}
    (place / "coqa-dev-v1.0.json").write_text(json.dumps({"data": [story]}))
    written(place / "cnndm.jsonl", [{"article": "News. " * 99, "highlights": "One. Two."}])
    written(place / "newstest2014.en", ["a long sentence " * 9, "b", "c"])
    written(place / "newstest2014.fr", ["une phrase", "bé", "cé"])
    written(place / "NQ-open.dev.jsonl", [{"question": f"q{i}", "answer": ["a"]} for i in "ab"])
    return place


@pytest.mark.slow
def test_every_task_from_its_files_to_its_figures(
    command: Command, data: Path, model: Path
) -> None:
    """On a model with 48 tokens of context, so that most prompts are too long for it."""
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    ended = command("eval", *TASKS, "--data", data, "--model", model, "--json", "--threads", "1")
    assert ended.code == 0, ended.err
    assert [record["task"] for record in ended.records] == list(TASKS)
    for record in ended.records:
        task = find(record["task"])
        assert list(record["metrics"]) == [metric.name for metric in task.metrics]
        assert record["examples"] > 0
        assert record["tokens"] > 0
        for metric, found in record["metrics"].items():
            if "perplexity" not in metric:
                assert found["low"] <= found["value"] <= found["high"]


def test_the_table_compares_models(
    command: Command, data: Path, tiny_bundles: dict[str, Bundle], home: Path
) -> None:
    names = ",".join(str(bundle.directory) for bundle in tiny_bundles.values())
    ended = command("eval", "winograd", "ptb", "--data", data, "--models", names)
    assert ended.code == 0, ended.err
    assert "Winograd schemas" in ended.out
    assert "65.85" in ended.out
    assert "70.70" in ended.out
    assert all(str(bundle.directory) in ended.out for bundle in tiny_bundles.values())
    assert "1 schema" in ended.out
    assert len(list((home / "evals").iterdir())) == 2 * len(tiny_bundles)


def test_the_seed_decides_what_is_drawn(command: Command, data: Path, model: Path) -> None:
    pytest.importorskip("rouge_score")

    def summary(seed: int, folder: str) -> list[str]:
        place = data.parent / folder
        arguments = ["--model", model, "--seed", str(seed), "--records", place, "--json"]
        ended = command("eval", "cnndm", "--data", data, *arguments)
        assert ended.code == 0, ended.err
        (file,) = place.iterdir()
        records = json.loads(file.read_text(encoding="utf-8").splitlines()[1])["records"]
        return [record["summary"] for record in records]

    assert summary(1, "a") == summary(1, "b")
    assert summary(1, "a") != summary(2, "c")


@pytest.mark.parametrize(("flag", "special"), [("--special", True), ("--no-special", False)])
def test_control_tokens_in_the_texts_of_a_task(
    command: Command, data: Path, model: Path, tmp_path: Path, flag: str, special: bool
) -> None:
    (data / "lambada_test.jsonl").write_text('{"text": "a b<|endoftext|>c d e"}\n')
    options = ("--data", data / "lambada_test.jsonl", "--model", model, "--json", flag)
    (record,) = command("eval", "lambada", *options, "--records", tmp_path / "r").records
    gpt2 = GPT2.load(model, threads=1)
    text = gpt2.tokenizer.encode("a b<|endoftext|>c d e", special=special)
    assert record["settings"]["special"] is special
    assert BundleModel(gpt2, special).encode("a b<|endoftext|>c d e") == text


def test_the_list_shows_tasks_and_formats(command: Command) -> None:
    ended = command("eval", "--list")
    assert all(name in ended.out and task.data in ended.out for name, task in TASKS.items())
    assert [row["task"] for row in command("eval", "--list", "--json").records] == list(TASKS)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "name a task"),
        (("lambda",), 2, "did you mean lambada?"),
        (("lambada",), 2, "--data is needed"),
        (("lambada", "--data", "nowhere"), 1, "nowhere: no such file or folder"),
        (("lambada", "--data", "{data}", "--limit", "0"), 2, "limit must be 1 or more"),
        (("lambada", "--data", "{data}", "--models", "117M-int8,"), 1, "not exported yet"),
        (("ptb", "--data", "{data}/text8", "--stride", "99"), 2, "stride must be at most"),
        (
            ("nq", "--data", "{data}/text8"),
            1,
            "not JSON (Expecting value, column 2); nq reads NQ-open.dev.jsonl",
        ),
    ],
)
def test_misuse_is_told_in_one_line(
    command: Command, data: Path, model: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    given = [argument.replace("{data}", str(data)) for argument in arguments]
    if "--models" not in given:
        given += ["--model", str(model)]
    ended = command("eval", *given)
    assert told in ended.in_one_line()
    assert ended.code == code


def test_a_folder_without_the_file_and_one_with_several(
    command: Command, data: Path, model: Path
) -> None:
    (data / "lambada_test.jsonl").unlink()
    told = command("eval", "lambada", "--data", data, "--model", model).in_one_line()
    assert f"{data}: no lambada_test.jsonl or" in told
    for name in ("one", "two"):
        (data / name).mkdir()
        written(data / name / "lambada_test.jsonl", PASSAGES[:1])
    told = command("eval", "lambada", "--data", data, "--model", model).in_one_line()
    assert "several files fit" in told
    assert "name the one to read" in told


def test_an_extra_that_is_missing_is_told_first(
    command: Command, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2rt_evals.metrics.find_spec", lambda name: None)
    told = command("eval", "wmt14-en-fr", "--data", data, "--model", model).in_one_line()
    assert 'needs sacrebleu: pip install "gpt2rt[eval]"' in told


def test_ctrl_c_says_what_is_kept(
    command: Command, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(run: EvalRun, model: LanguageModel, folder: Path, advance: Any) -> None:
        advance(64, 300)
        raise KeyboardInterrupt

    monkeypatch.setattr(EvalRun, "finish", finish)
    ended = command("eval", "lambada", "--data", data, "--model", model)
    assert ended.code == 130
    assert "stopped; 64 of 300 passages are kept, the same command goes on" in ended.err


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """A process that is killed for good in the middle, and the same command again."""
    rows = [{"text": f"Once there was a king, number {i}, who had a {i % 7}"} for i in range(640)]
    path = written(tmp_path / "lambada_test.jsonl", rows)
    arguments = [
        "eval",
        "lambada",
        "--data",
        str(path),
        "--model",
        "demo",
        "--json",
        "--threads",
        "1",
    ]
    records = tmp_path / "parts"

    def lines() -> list[bytes]:
        found = list(records.glob("*.jsonl"))
        return found[0].read_bytes().split(b"\n")[1:] if found else []

    code = 0
    while not code or len(lines()) > 10:  # one that was quicker than its killer is tried again
        shutil.rmtree(records, ignore_errors=True)
        process = start(*arguments, "--records", records)
        while len(lines()) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        code = finish(process).code
    before = lines()
    assert 2 <= len(before) - 1 < 10
    resumed = run_process(*arguments, "--records", records)
    whole = run_process(*arguments, "--records", tmp_path / "whole")
    assert outcome(resumed) == outcome(whole)
    assert lines()[: len(before) - 1] == before[:-1]
    numbers = [json.loads(line)["chunk"] for line in lines() if line.endswith(b"}")]
    assert sorted(numbers) == list(range(10))


def outcome(ended: Ended) -> dict[str, Any]:
    """What a run found, less what depends on the clock."""
    assert ended.code == 0, ended.err
    (record,) = ended.records
    return {name: value for name, value in record.items() if "second" not in name}


REAL = {
    "lambada": "lambada",
    "lambada-harness": "lambada",
    "wikitext2": "wikitext2",
    "wikitext2-harness": "wikitext2",
    "winograd": "wsc",
    "cnndm": "cnndm",
    "wmt14-en-fr": "wmt14-fr-en",
    "wmt14-fr-en": "wmt14-fr-en",
    "nq": "nq-open",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_real_files(command: Command, name: str, model: Path) -> None:
    place = SHARED / "eval" / REAL[name]
    if not place.is_dir():
        pytest.skip(f"{place} is not there")
    find(name).check()
    ended = command(
        "eval", name, "--data", place.parent, "--model", model, "--limit", "2", "--json"
    )
    assert ended.code == 0, ended.err
    assert ended.records[0]["examples"] == 2
