"""`gpt2rt generate`: what it prints, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import (
    EQUALS,
    Command,
    Ended,
    posix,
    start,
)
from gpt2rt import GPT2, Completion, Piece, Timing
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.cli.output.printing import in_turn
from models import TINY

FIELDS = ["row", "source", "line", "sample_of_line", "model", "prompt", "text", "prompt_tokens"]
FIELDS += ["tokens", "logprobs", "finish_reason", "stopped_by", "seed", "sample"]
STATS = ["cached_tokens", "drafted", "accepted", "prefix_cache", "timing"]
TIMING = ["load_ms", "prefill_ms", "decode_ms"]


PROMPTS = ["né 👋 wörld", "line\nline", "-", "--top-k"]


@pytest.mark.parametrize("prompt", ["a", "né 👋 wörld", None])
def test_json_is_a_record_a_sample(
    command: Command, model: Path, tiny_models: dict[str, GPT2], prompt: str | None
) -> None:
    given = () if prompt is None else (prompt,)
    ended = command("generate", *given, "-m", model, "--json", "-n", "3", "--seed", "5")
    assert (ended.code, ended.err) == (0, "")
    tokenizer = tiny_models["int8"].tokenizer
    start = [tokenizer.end_of_text] if prompt is None else tokenizer.encode(prompt)
    for number, sample in enumerate(ended.records):
        assert list(sample) == FIELDS
        assert (sample["model"], sample["prompt"], sample["seed"]) == ("tiny-int8", prompt, 5)
        assert sample["sample"] == number
        assert sample["prompt_tokens"] == start
        assert sample["text"] == tokenizer.decode(sample["tokens"])
        assert sample["finish_reason"] in ("length", "end_of_text", "context")
    assert number == 2


def test_statistics_are_told_where_they_are_asked_for(
    command: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    options = ("-m", model, "--seed", "5", "--length", "3", "--stats")
    for text in (("a", "--json"), ("--file", tmp_path / "a.txt")):
        (sample,) = command("generate", *text, *options).records
        assert list(sample) == [*FIELDS, "stats"]
        assert list(sample["stats"]) == STATS
        assert list(sample["stats"]["timing"]) == TIMING
        assert all(value > 0 for value in sample["stats"]["timing"].values())


def test_a_beam_has_its_score(command: Command, model: Path) -> None:
    options = ("-m", model, "--length", "3", "--beams", "2", "-n", "2", "--json")
    found = command("generate", "a", *options).records
    assert [list(sample) for sample in found] == [[*FIELDS, "score"]] * 2
    assert found[0]["score"] >= found[1]["score"]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_plain_output_is_the_text_of_json_and_a_newline(
    command: Command, model: Path, prompt: str
) -> None:
    options = ("-m", model, "--seed", "9", "--temperature", "1.5")
    stdin = prompt.encode()
    given = ("-",) if prompt == "-" else ("--", prompt)
    text = command("generate", "--json", *options, *given, stdin=stdin).records[0]["text"]
    streamed = command("generate", *options, *given, stdin=stdin)
    assert streamed == Ended(0, text + "\n", "")
    assert command("generate", "--no-stream", *options, *given, stdin=stdin) == streamed


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_several_samples_come_in_order_under_banners(
    command: Command, model: Path, stream: str
) -> None:
    options = ("generate", "a", "-m", model, "--seed", "2", "-n", "5", "--length", "12")
    texts = [sample["text"] for sample in command(*options, "--json").records]
    assert len(set(texts)) == 5
    wanted = [f"{EQUALS} SAMPLE {i} {EQUALS}\n{text}\n" for i, text in enumerate(texts, 1)]
    assert command(*options, stream).out == "".join(wanted)


def test_the_seed_that_json_tells_repeats_the_text(command: Command, model: Path) -> None:
    options = ("generate", "a", "-m", model, "--json")
    first, other = (command(*options).records[0] for _ in range(2))
    assert first["seed"] != other["seed"]
    again = command(*options, "--seed", str(first["seed"])).records[0]
    assert (again["tokens"], again["text"]) == (first["tokens"], first["text"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        ("ab", "ab"),
        ("ab\n", "ab"),
        ("ab\r\n", "ab"),
        ("ab\n\n", "ab\n"),
        (" a\tb ", " a\tb "),
        ("né 👋\nb", "né 👋\nb"),
    ],
)
def test_a_hyphen_reads_standard_input(
    command: Command, model: Path, data: str, prompt: str
) -> None:
    ended = command("generate", "-", "-m", model, "--json", "--length", "1", stdin=data.encode())
    assert ended.records[0]["prompt"] == prompt


def test_greedy_is_temperature_zero_whatever_the_seed(command: Command, model: Path) -> None:
    options = ("generate", "a", "-m", model)
    greedy = command(*options, "--greedy")
    assert greedy == command(*options, "--temperature", "0", "--seed", "3")
    assert greedy == command(*options, "--greedy", "--temperature", "0", "--top-k", "7")


def test_the_reason_for_the_end(command: Command, model: Path) -> None:
    options = ("generate", "a", "-m", model, "--json", "--seed", "2", "--temperature", "3")
    samples = command(*options, "-n", "30", "--length", "30").records
    assert {sample["finish_reason"] for sample in samples} == {"end_of_text", "length"}
    for sample in samples:
        assert (len(sample["tokens"]) == 30) == (sample["finish_reason"] == "length")
    on = command(*options, "-n", "30", "--length", "30", "--no-end-of-text").records
    assert {sample["finish_reason"] for sample in on} == {"length"}
    whole = command(*options, "--no-end-of-text").records[0]
    assert whole["finish_reason"] == "context"
    assert len(whole["tokens"]) == TINY.n_ctx  # the last one drawn needs no place


@pytest.mark.slow
@posix
def test_no_number_of_samples_is_no_end(model: Path, home: Path) -> None:
    """As OpenAI's script for texts from nothing: until whoever reads has had enough."""
    process = start("generate", "-m", model, "-n", "0", "--length", "3", stdout=subprocess.PIPE)
    assert process.stdout is not None
    banners = (line for line in process.stdout if b" SAMPLE " in line)
    assert [next(banners).split()[2] for _ in range(70)] == [str(n).encode() for n in range(1, 71)]
    process.stdout.close()
    assert process.wait(300) == 1


def test_the_model_is_the_option_else_the_environments(
    command: Command, model: Path, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2RT_MODEL", str(model))
    options = ("generate", "a", "--json", "--length", "1")
    assert command(*options).records[0]["model"] == "tiny-int8"
    other = tiny_bundles["fp32"].directory
    assert command(*options, "-m", other).records[0]["model"] == "tiny-fp32"


def test_the_demo_steps_in_and_says_so_only_where_nobody_asked(
    command: Command,
    home: Path,
    model: Path,
    exported: Callable[[str], Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(model, home / "embedded")
    options = ("generate", "a", "--length", "1", "--seed", "1")
    alone = command(*options)
    assert alone.code == 0
    assert alone.err.startswith("gpt2rt: using the embedded demo model")
    for bad in (("--threads", "0"), ("--file", "nowhere"), ("--provider", "x"), ("--stop", "")):
        assert "demo" not in command("generate", *bad).in_one_line()
    for name in ("score", "embed", "tokenize"):
        assert command(name, "a").err == alone.err
        assert "demo" not in command(name, "--file", "nowhere", "-o", "out/").in_one_line()
    assert command(*options, "-m", "demo") == Ended(0, alone.out, "")
    monkeypatch.setenv("GPT2RT_MODEL", "demo")
    assert command(*options) == Ended(0, alone.out, "")
    monkeypatch.delenv("GPT2RT_MODEL")
    exported("117M")
    assert command(*options, "--json").records[0]["model"] == "117M-int8"


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 3))
def test_samples_take_turns_and_the_one_whose_turn_it_is_never_waits(
    order: list[int], missing: int
) -> None:
    """Whatever the interleaving: nothing lost, and the first unfinished sample at once."""
    order = [*order, *(sample for sample in range(4) if sample != missing), missing]
    last = {sample: step for step, sample in enumerate(order)}
    made: list[Piece] = []

    def pieces() -> Iterator[Piece]:
        for step, sample in enumerate(order):
            done = Completion(
                None, "", (), (), None, "length", None, 0, sample, 0, 0, 0, None, Timing(0, 0, 0)
            )
            completion = done if last[sample] == step else None
            made.append(Piece(sample, str(step), completion=completion))
            yield made[-1]

    seen = []
    for piece in in_turn(pieces()):
        seen.append((piece.sample, int(piece.text)))
        finished = {p.sample for p in made if p.completion}
        due = min({0, 1, 2, 3} - (finished - {piece.sample}))
        assert piece.sample <= due
    assert seen == sorted((sample, step) for step, sample in enumerate(order))
