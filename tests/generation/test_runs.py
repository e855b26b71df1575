"""Saved runs: a replay gives the same texts, or an error says why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Command
from gpt2rt.bundles.bundle import Bundle

CASES: list[tuple[str, ...]] = [
    ("the cat", "-n", "3"),
    ("--seed", "4", "--temperature", "1.4", "--top-k", "9"),
    ("né 👋", "--greedy", "--stop", "e", "--no-end-of-text"),
    ("a", "--beams", "3", "-n", "2"),
    ("a", "--regex", "[0-9]{3}"),
    ("a", "--logit-bias", "5=-inf", "--bad-word", "cat", "--overflow", "slide"),
    ("a b a b a b", "--draft", "lookup", "--greedy"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_a_saved_run_comes_out_again(
    command: Command, model: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    run = tmp_path / "run.json"
    length = ("--length", "12")
    first = command("generate", "-m", model, "--save-run", run, "--json", *length, *options)
    assert first.code == 0
    again = command("generate", "--replay", run, "--json")
    assert again.code == 0
    for one, other in zip(first.records, again.records, strict=True):
        for name in ("model", "prompt", "text", "tokens", "seed", "sample", "finish_reason"):
            assert one[name] == other[name]
    plain = command("generate", "--replay", run)
    assert first.records[0]["text"] in plain.out


def test_a_run_says_what_it_depends_on(command: Command, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    assert command("generate", "a", "-m", model, "--save-run", run, "--length", "3").code == 0
    body = json.loads(run.read_text())
    assert body["digest"] == Bundle.open(model).digest
    assert str(model) not in run.read_text()
    assert not os.path.isabs(body["bundle"])
    assert body["provider"] == "cpu"
    assert {"gpt2rt", "onnxruntime", "numpy", "python"} <= set(body["versions"])
    assert isinstance(body["run"]["params"]["seed"], int)


def test_a_pipe_is_written_to_and_stays(command: Command, model: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ended = command("generate", "a", "-m", model, "--save-run", pipe, "--length", "3")
        assert ended.code == 0
        assert json.loads(os.read(reader, 1 << 16))["digest"] == Bundle.open(model).digest
        assert pipe.is_fifo()
    finally:
        os.close(reader)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (
            lambda body: body.update(tokens="0" * 64),
            "differ from those of the run, made with gpt2rt",
        ),
        (lambda body: body.update(digest="0" * 64), "another bundle"),
        (lambda body: body.update(format="else"), "not a saved run"),
        (lambda body: body.update(version=99), "version 99"),
        (lambda body: body.pop("run"), "damaged"),
        (lambda body: body["run"].update(nsamples="many"), "nsamples"),
        (lambda body: body["run"].update(prompt=5), "prompt"),
        (lambda body: body["run"].update(threads="x"), "threads"),
        (lambda body: body["run"].update(draft=3), "draft"),
        (lambda body: body["run"].update(batch_size=True), "batch_size"),
        (lambda body: body.update(digest=5), "damaged"),
        (lambda body: body.update(bundle=7), "damaged"),
        (lambda body: body.update(versions=[1]), "damaged"),
        (lambda body: body["run"].update(hurry=True), "hurry"),
        (lambda body: body["run"]["params"].update(temperature=-1), "temperature"),
        (lambda body: body["run"]["params"].pop("seed"), "seed"),
        (lambda body: body["run"]["stopping"].update(length=0), "length"),
        (lambda body: body.update(bundle="/no/such"), "no such"),
    ],
)
def test_a_run_that_is_not_what_it_was(
    command: Command,
    model: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    fact: str,
) -> None:
    run = tmp_path / "run.json"
    assert command("generate", "a", "-m", model, "--save-run", run, "--length", "3").code == 0
    body = json.loads(run.read_text())
    change(body)
    run.write_text(json.dumps(body))
    ended = command("generate", "--replay", run)
    assert ended.code in (1, 2)
    assert fact in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("data", [b"", b"not json", b"\xff\xfe", b"[]", b"3", b"[" * 100_000])
def test_a_file_that_is_no_run(command: Command, tmp_path: Path, data: bytes) -> None:
    run = tmp_path / "run.json"
    run.write_bytes(data)
    ended = command("generate", "--replay", run)
    assert ended.code == 1
    assert "run.json" in ended.in_one_line()
