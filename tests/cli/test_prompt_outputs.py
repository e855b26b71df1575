"""The output of a file of prompts: nothing is made twice, lost, or written over."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from command_line import Command
from gpt2rt.corpus.layout import DonePart
from gpt2rt.corpus.ledger import Ledger
from gpt2rt.errors import StepFailed
from prompt_cases import OPTIONS, PROMPTS, parts_of
from written import lines


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


# A command that is killed so many seconds after so many parts are done, and before three more are.
KILLED = """
import os, signal, sys, threading
from gpt2rt.cli import main
from gpt2rt.corpus.ledger import Ledger

left, seconds, add = int(sys.argv.pop(1)), float(sys.argv.pop(1)), Ledger.add

def adding(self, part):
    global left
    add(self, part)
    left -= 1
    if left == 0:
        threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGKILL]).start()
    if left == -2:
        threading.Event().wait()

Ledger.add = adding
main()
"""


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
    rng = Random(1)
    for _ in range(4):
        moment = str(rng.randrange(1, 6)), str(rng.random() / 50)
        shell = [sys.executable, "-c", KILLED, *moment, *map(str, arguments)]
        ended = subprocess.run(shell, stderr=subprocess.DEVNULL, timeout=300, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not output.exists()
    assert command(*arguments).code == 0
    killed = output.read_bytes()
    output.unlink()
    assert command(*arguments).code == 0
    assert killed == output.read_bytes()
    assert len(lines(output)) == 400


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
