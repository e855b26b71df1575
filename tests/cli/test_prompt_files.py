"""Prompts from a file: every sample once, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from command_line import Command
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.corpus.layout import DonePart
from gpt2rt.corpus.ledger import Ledger
from gpt2rt.errors import StepFailed

OPTIONS = ("--length", "6", "--seed", "7", "--temperature", "1.3")
PROMPTS = ["the cat", "a", "né 👋", "the cat", "x y z", "zz top", "over the hill"]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told(path: Path) -> list[tuple[object, ...]]:
    return [(r["line"], r["sample_of_line"], r["prompt"], tuple(r["tokens"])) for r in lines(path)]  # type: ignore[arg-type]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


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


def parts_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


@contextmanager
def cut_short(output: Path, after: int) -> Iterator[None]:
    """A run that ends when so many parts are done, as by a signal that the machine sends."""
    with pytest.MonkeyPatch.context() as patch:
        add = Ledger.add

        def adding(self: Ledger, part: DonePart) -> None:
            add(self, part)
            if len(self.done) == after:
                raise StepFailed("pulled the plug")

        patch.setattr(Ledger, "add", adding)
        yield
    assert not output.exists()


@pytest.mark.slow
def test_what_is_there_is_not_made_again(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    """Whatever is left of a run that was cut short, half a line of its manifest included."""
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    options = ("generate", "-m", model, "--file", prompts, "--part-rows", "2", *OPTIONS)
    assert command(*options, "--output", whole).code == 0
    for seed in range(8):
        rng = Random(seed)
        with cut_short(output, after=rng.randrange(1, 5)):
            assert command(*options, "--output", output).code == 1
        manifest = parts_of(output) / "_manifest.jsonl"
        kept = manifest.read_bytes().splitlines(keepends=True)
        kept = kept[: rng.randrange(len(kept) + 1)]
        half = b'{"part": 3, "ro' if kept and rng.random() < 0.7 else b""
        manifest.write_bytes(b"".join(kept) + half)
        times = {p: p.stat().st_mtime_ns for p in parts_of(output).glob("part-*")}
        with cut_short(output, after=4):
            assert command(*options, "--output", output).code == 1
        done = {json.loads(line)["part"] for line in kept[1:]}
        for path, time_ns in times.items():
            assert (path.stat().st_mtime_ns == time_ns) == (int(path.stem[5:]) in done)
        assert command(*options, "--output", output).code == 0
        assert output.read_bytes() == whole.read_bytes()
        assert not list(parts_of(output).glob("part-*"))
        output.unlink()


def test_without_a_seed_a_resumed_run_keeps_the_one_it_had(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    options = ("generate", "-m", model, "--file", prompts, "--output", output, "--length", "5")
    parts = ("--part-rows", "2")
    with cut_short(output, after=2):
        assert command(*options, *parts).code == 1
    assert command(*options, *parts).code == 0
    assert len({record["seed"] for record in lines(output)}) == 1
    assert len(lines(output)) == len(PROMPTS)


def test_a_complete_output_is_left_as_it_is(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    options = ("generate", "-m", model, "--file", prompts, "--output", output, "--length", "5")
    assert command(*options).code == 0
    before = output.read_bytes()
    assert command(*options).code == 0
    assert output.read_bytes() == before
    output.write_bytes(before[:-9])
    ended = command(*options)
    assert (ended.code, "was changed since" in ended.in_one_line()) == (1, True)
    output.unlink()
    assert command(*options, "--seed", "3").code == 0
    assert {record["seed"] for record in lines(output)} == {3}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_killed_run_goes_on_with_nothing_lost_or_doubled(
    command: Command, model: Path, tmp_path: Path
) -> None:
    """`make soak` kills more often."""
    prompts = tmp_path / "many.txt"
    prompts.write_text("\n".join(f"{n} and {n + 1}" for n in range(400)))
    output = tmp_path / "out.jsonl"
    arguments = ["generate", "-m", model, "--file", prompts, "--output", output, *OPTIONS]
    arguments += ["--part-rows", "10"]
    shell = [sys.executable, "-m", "gpt2rt", *map(str, arguments)]
    rng = Random(1)
    for _ in range(4):
        process = subprocess.Popen(shell, stderr=subprocess.DEVNULL)
        done = len(list(parts_of(output).glob("part-*")))
        wanted, deadline = done + rng.randrange(1, 6), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(parts_of(output).glob("part-*"))) >= wanted:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
    assert command(*arguments).code == 0
    killed = output.read_bytes()
    output.unlink()
    assert command(*arguments).code == 0
    assert killed == output.read_bytes()
    assert len(lines(output)) == 400


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (("--length", "7"), "other settings"),
        (("--top-k", "3"), "other settings"),
        (("--seed", "8"), "seed 7, now 8"),
        (("--part-rows", "3"), "part_rows 100, now 3"),
    ],
)
def test_another_runs_output_is_not_touched(
    command: Command, model: Path, prompts: Path, tmp_path: Path, other: tuple[str, ...], fact: str
) -> None:
    output = tmp_path / "out.jsonl"
    options = ("generate", "-m", model, "--file", prompts, "--output", output, *OPTIONS)
    assert command(*options).code == 0
    before = output.read_bytes()
    ended = command(*options, *other)
    assert ended.code == 2
    assert fact in ended.in_one_line()
    assert output.read_bytes() == before
    prompts.write_text("changed\n" + "\n".join(PROMPTS[1:]))
    ended = command(*options)
    assert (ended.code, "other texts" in ended.in_one_line()) == (2, True)
    assert output.read_bytes() == before


def test_a_file_that_is_no_output_is_not_touched(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "diary.txt"
    ours = ("generate", "-m", model, "--file", prompts, "--output")
    for text in ("Dear diary,\nnothing happened", "without an end", "{"[:0] + "\n"):
        precious.write_text(text)
        assert command(*ours, precious).code == 2
        assert precious.read_text() == text
    assert "file of the texts" in command(*ours, prompts).in_one_line()
    assert "is not a directory" in command(*ours, "/dev/null").in_one_line()
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "diary.txt").write_text("Dear diary")
    assert "has files" in command(*ours, folder).in_one_line()
    assert [path.name for path in folder.iterdir()] == ["diary.txt"]
    (folder / "_manifest.jsonl").write_text('{"name": "of others"}\n')
    assert "no manifest of such a run" in command(*ours, folder).in_one_line()
    assert not parts_of(precious).exists()


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


@pytest.mark.skipif(sys.platform == "win32", reason="locks are tried on POSIX")
def test_two_runs_do_not_share_an_output(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    import fcntl

    output = tmp_path / "out.jsonl"
    given = ("generate", "-m", model, "--file", prompts, "--output", output, *OPTIONS)
    parts_of(output).mkdir()
    with (parts_of(output) / "_manifest.jsonl").open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another run" in command(*given).in_one_line()
    assert command(*given).code == 0


def test_a_link_to_an_output_stays_one(
    command: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.touch(mode=0o600)
    link.symlink_to(real)
    given = ("generate", "-m", model, "--file", prompts, "--output", link, *OPTIONS)
    assert command(*given, "--batch-size", "3").code == 0
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert [r["line"] for r in lines(real)] == list(range(1, 8))


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
