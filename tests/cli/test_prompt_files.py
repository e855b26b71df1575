"""Prompts from a file: every sample once, in order, and what is wrong is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Command
from gpt2rt import GPT2, SamplingParams, Stopping
from prompt_cases import OPTIONS, PROMPTS, lines, parts_of, told


def test_every_line_is_continued_in_order(
    command: Command, model: Path, prompts: Path, tmp_path: Path, tiny_models: dict[str, GPT2]
) -> None:
    """What the library gives for the same prompts, to the token."""
    output = tmp_path / "out.jsonl"
    options = ("generate", "-m", model, "--file", prompts, *OPTIONS)
    ended = command(*options, "--output", output, "--batch-size", "3")
    assert (ended.code, ended.out) == (0, "")
    params = SamplingParams(temperature=1.3, seed=7)
    wanted = tiny_models["int8"].generate_batch(PROMPTS, params, Stopping(6))
    assert [tuple(r["tokens"]) for r in lines(output)] == [c.tokens for c in wanted]  # type: ignore[arg-type]
    assert [r["line"] for r in lines(output)] == list(range(1, 8))
    printed = command(*options).records
    assert [tuple(r["tokens"]) for r in printed] == [c.tokens for c in wanted]


def test_several_samples_a_line(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"{size}.jsonl" for size in (1, 32)]
    options = ("generate", "-m", model, "--file", prompts, "-n", "3", *OPTIONS)
    for output in outputs:
        assert command(*options, "--output", output, "--batch-size", output.stem).code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert [place[:2] for place in told(outputs[0])] == [
        (n, k) for n in range(1, 8) for k in range(3)
    ]


def test_lines_of_json_and_what_is_wrong_with_some(
    command: Command, model: Path, tmp_path: Path
) -> None:
    """The others go on; each bad one is told with its number, and the exit says so."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given = ['"a text"', '{"prompt": "b", "id": 17}', "{broken", '{"text": "no prompt"}', ""]
    given += [
        '{"prompt": null}',
        '{"prompt": 3}',
        '["a"]',
        '{"prompt": ""}',
        '"' + "x " * 400 + '"',
    ]
    source.write_bytes("\n".join(given).encode() + b'\n"\xff"\n')
    ended = command("generate", "-m", model, "--file", source, "--output", output, *OPTIONS)
    assert ended.code == 1
    records = lines(output)
    assert [(r["line"], r["prompt"], r.get("input")) for r in records] == [
        (1, "a text", None),
        (2, "b", {"id": 17}),
        (6, None, None),
    ]
    bad = [line for line in ended.err.splitlines() if "in.jsonl, line" in line]
    assert [int(line.split("line ")[1].split(":")[0]) for line in bad] == [3, 4, 7, 8, 9, 10, 11]
    rejects = lines(parts_of(output) / "_rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [3, 4, 7, 8, 9, 10, 11]


def test_a_line_that_fails_does_not_stop_the_others(
    command: Command, model: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("One\nb,a\nTwo\n")
    options = ("--regex", "[ab]", "--no-repeat-ngram", "1", "--seed", "1")
    given = ("generate", "-m", model, "--file", source, *options)
    for more in (("--output", output), ("--output", output), ()):
        ended = command(*given, *more)
        assert ended.code == 1
        assert "in.txt, line 2: no token is left" in ended.err
    assert [r["line"] for r in lines(output)] == [1, 3]
    assert [r["line"] for r in command(*given).records] == [1, 3]


def test_log_probabilities_go_into_the_file(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    given = ("generate", "-m", model, "--file", prompts, "--output", output, *OPTIONS)
    assert command(*given, "--logprobs").code == 0
    assert all(len(r["logprobs"]) == len(r["tokens"]) for r in lines(output))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("a", "--file", "x.txt"), "PROMPT and --file"),
        (("--output", "x"), "--output is for --file"),
        (("--column", "x"), "--column is for --file"),
        (("a", "--part-rows", "3"), "--part-rows is for --output"),
        (("--file", "x.txt", "--output", "o.doc"), "ends in .txt, .jsonl"),
        (("--file", "x.txt", "--replay", "y"), "--model and --replay"),
        (("--file", "x.txt", "--save-run", "y"), "--save-run and --file"),
        (("--file", "x.txt", "-n", "0"), "without end"),
        (("--file", "x.txt", "--beams", "2"), "--file and --beams"),
        (("a", "--beams", "2", "-n", "0"), "0 samples of 2 beams"),
        (("--replay", "y", "--temperature", "2"), "exclude each other"),
        (("--file", "no-such.txt"), "no-such.txt"),
        (("a", "--beams", "2", "--json", "--logprobs"), "no log-prob"),
        (("a", "--beams", "2", "--draft", "lookup"), "--beams and --draft"),
        (("a", "--length-penalty", "2"), "is for --beams"),
        (("a", "--logprobs"), "is for --json"),
        (("a", "--json", "--show-probs"), "is for text"),
        (("a", "--save-run", "."), "name a file"),
        (("a", "--save-run", ""), "name a file"),
        (("--batch-size", "0"), "batch_size"),
        (("a", "--beams", "2", "-n", "3"), "3 samples of 2 beams"),
        (("a", "--beams", "0"), "beams"),
        (("a", "--min-length", "9", "--length", "3"), "min_length"),
        (("a", "--stop", ""), "stop string"),
        (("a", "--logit-bias", "5"), "TOKEN=BIAS"),
        (("a", "--logit-bias", "5=much"), "TOKEN=BIAS"),
        (("a", "--prefix-cache", "-1"), "--prefix-cache"),
        (("a", "--regex", "("), "refused"),
        (("a", "--regex", "a", "--grammar", 'start: "a"'), "one of"),
        (("a", "--regex", "a", "--beams", "2"), "no constraint"),
        (("a", "--save-run", "/no/such/folder/run.json"), "does not exist"),
    ],
)
def test_what_cannot_be_asked_for(
    command: Command, model: Path, options: tuple[str, ...], fact: str
) -> None:
    ended = command("generate", "-m", model, *options)
    assert ended.code in (1, 2)
    assert fact in ended.in_one_line()


def test_messages_call_standard_input_by_its_name(command: Command, model: Path) -> None:
    options = ("generate", "--file", "-", "-m", model, "--length", "2")
    assert "gpt2rt: standard input is UTF-16" in command(*options, stdin=b"\xff\xfea\0").err
    ended = command(*options, stdin=b"ok\n\x80\n")
    assert "gpt2rt: standard input, line 2: " in ended.err
    assert (ended.code, len(ended.records)) == (1, 1)
