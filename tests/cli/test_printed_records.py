"""Records on standard output: printed while texts are still read, and ended at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from command_line import Command, finish, posix, start
from gpt2rt import GPT2

COMMANDS = ["generate", "score", "embed", "tokenize"]
Reader = subprocess.Popen[bytes]
FIRST = b"a text\n" * 100  # more than a batch takes


@pytest.fixture
def printing(model: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """A command that waits for more texts, and has printed the first record."""
    more = ("--length", "2") if request.param == "generate" else ("--lines", "--json")
    given = (request.param, "--file", "-", "-m", model, *more)
    process = start(*given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    ender = threading.Timer(600, process.kill)
    ender.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(FIRST)
    record = json.loads(process.stdout.readline())
    assert (record["row"], record["source"]) == (1, "standard input")
    yield process
    ender.cancel()
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.slow
@posix
@pytest.mark.parametrize("printing", COMMANDS, indirect=True)
def test_the_first_record_comes_before_the_last_text_is_read(printing: Reader) -> None:
    out, err = printing.communicate(b"the last one", timeout=300)
    rows = [json.loads(line)["row"] for line in out.splitlines()]
    assert (printing.returncode, err, rows) == (0, b"", [*range(2, 102)])


@pytest.mark.slow
@posix
@pytest.mark.parametrize("printing", COMMANDS, indirect=True)
def test_ctrl_c_between_records_is_quiet(printing: Reader) -> None:
    printing.send_signal(signal.SIGINT)
    ended = finish(printing)
    assert (ended.code, ended.err) == (130, "")


@pytest.mark.slow
@posix
@pytest.mark.parametrize("printing", COMMANDS, indirect=True)
def test_a_reader_who_has_seen_enough_ends_the_printing(printing: Reader) -> None:
    """As `| head -n 1` does, however much is still to be read."""
    assert printing.stdin is not None
    assert printing.stdout is not None
    assert printing.stderr is not None
    printing.stdout.close()
    with suppress(BrokenPipeError):  # it may have ended by the records of the texts before
        printing.stdin.write(FIRST)
    assert printing.wait(timeout=300) == 1
    assert printing.stderr.read() == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_be_read_is_told_after_the_records_before_it(
    command: Command, model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfea\0")
    files = ("--file", tmp_path / "a.txt", "--file", tmp_path / "b.txt")
    more = ("--length", "2") if name == "generate" else ("--lines", "--json")
    ended = command(name, *files, *more, "-m", model)
    assert (ended.code, [r["row"] for r in ended.records]) == (1, [1, 2])
    assert ended.err.startswith(f"gpt2rt: {tmp_path / 'b.txt'} is UTF-16")


@pytest.mark.parametrize("options", [("--json",), ("--csv",), ("--format", "tsv")])
def test_no_text_at_all_is_an_error_and_prints_nothing(
    command: Command, model: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "a.csv").write_text("text,id\n")
    (tmp_path / "b.csv").write_text("text,id\n\n")
    files = ("--file", tmp_path / "a.csv", "--file", tmp_path / "b.csv")
    ended = command("score", *files, *options, "-m", model)
    assert (ended.code, "no line has a text" in ended.in_one_line()) == (1, True)


@posix
@pytest.mark.parametrize("place", [0, 1])
def test_a_table_from_a_pipe_is_read_once(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path, place: int
) -> None:
    """As `<(zcat t.tsv.gz)` is; so the other columns of all files are JSON in one."""
    pipe, file = tmp_path / "pipe", tmp_path / "file.tsv"
    file.write_text("text\tother\nthree\t9\n")
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("id\ttext\n7\tone\n8\ttwo\n",))
    writer.start()
    files = [file]
    files.insert(place, pipe)
    named = (part for name in files for part in ("--file", name))
    ended = command("score", *named, "--column", "text", "--csv", "-m", model)
    writer.join()
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith('"row","source","line","input","text"')
    assert '"{""other"": ""9""}","three"' in lines.pop(1 if place else 3)
    for line, found, text in zip(lines[1:], ("7", "8"), ("one", "two"), strict=True):
        assert f'"{{""id"": ""{found}""}}","{text}"' in line
        assert str(gpt2.score(text).bits) in line
