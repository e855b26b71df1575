"""The command line as a process: how it ends, signals, pipes, locales; help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from command_line import (
    EQUALS,
    MANY,
    Command,
    Ended,
    finish,
    posix,
    run_process,
    start,
)
from gpt2rt import __version__
from gpt2rt.cli.app import COMMANDS

# ---- the process


@pytest.mark.slow
@posix
def test_text_is_utf8_whatever_the_locale_says(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("generate", "né 👋", "-m", model, "--seed", "4", "--threads", "1")
    plain = run_process(*options)
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}.items():
        monkeypatch.setenv(name, value)
    sample = run_process(*options, "--json").records[0]
    assert sample["prompt"] == "né 👋"
    assert plain == Ended(0, sample["text"] + "\n", "")
    assert not plain.out.isascii()


@pytest.mark.slow
@posix
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_ends_quietly_with_130(model: Path, options: Sequence[str]) -> None:
    # What a buffer had read, `communicate` would leave out.
    pipes = {"stdout": subprocess.PIPE, "bufsize": 0}
    process = start("generate", "a", "-m", model, *MANY, *options, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.code, ended.err) == (130, "")


def test_ctrl_c_while_the_command_is_imported_is_quiet() -> None:
    code = """
import sys
class CtrlC:
    def find_spec(self, name, *rest):
        if name == "numpy":
            raise KeyboardInterrupt
sys.meta_path.insert(0, CtrlC())
from gpt2rt.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_command_imports_no_other_and_leaves_the_process_as_it_was() -> None:
    code = """
import gc, os, sys
from gpt2rt.cli import main
before = dict(os.environ)
sys.argv = ["gpt2rt", "pack", "--help"]
try:
    main()
except SystemExit:
    assert gc.isenabled() and dict(os.environ) == before
    print(*(name for name in sys.modules if name.startswith("gpt2rt.cli.")), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    imported = {name.removeprefix("gpt2rt.cli.commands.") for name in ended.stderr.split()}
    modules = {module for module, _ in COMMANDS.values()}
    assert imported & modules == {"pack"}


def test_a_prompt_is_continued_without_what_files_of_prompts_need() -> None:
    code = """
import sys
from gpt2rt.cli import main
sys.argv = ["gpt2rt", "generate", "--help"]
try:
    main()
except SystemExit:
    print(*(name for name in sys.modules if name.startswith("gpt2rt.corpus.")), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert set(ended.stderr.split()) == {"gpt2rt.corpus.loading", "gpt2rt.corpus.names"}


@pytest.mark.slow
@posix
def test_a_reader_who_has_seen_enough_ends_it_quietly(model: Path, home: Path) -> None:
    process = start("generate", "a", "-m", model, *MANY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b"SAMPLE 1 " + EQUALS.encode() + b"\n")
    process.stdout.close()
    assert process.wait(timeout=300) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    reader, writer = os.pipe()
    os.close(reader)
    ended = run_process("models", "--json", stdout=writer)
    os.close(writer)
    assert "Exception" not in ended.err
    assert "Broken pipe" not in ended.err


@pytest.mark.slow
@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_full_disk_is_told_in_a_line(model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run_process("generate", "a", "-m", model, "--length", "1", stdout=full)
    assert (ended.code, ended.in_one_line()) == (
        1,
        "gpt2rt: the output: No space left on device\n",
    )


@pytest.mark.slow
@posix
def test_closed_streams_are_empty(model: Path) -> None:
    """As `<&- >&-` in a shell."""
    line = 'exec "$0" -m gpt2rt "$@" <&- >&-'
    shell = ["sh", "-c", line, sys.executable, "generate", "-", "-m", str(model)]
    ended = subprocess.run(shell, stderr=subprocess.PIPE, timeout=300, check=False)
    assert ended.returncode == 1
    assert b"the prompt is empty" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_traceback_is_shown_on_request_only(home: Path) -> None:
    shown = run_process("generate", "a", "-m", "118M", "--debug")
    assert shown.code == 1
    assert shown.err.startswith("Traceback")
    assert "gpt2rt.errors.UnknownModel: unknown model '118M'" in shown.err


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_is_accepted_anywhere(home: Path, command: Command, place: int) -> None:
    arguments = ["generate", "a", "-m", "118M"]
    arguments.insert(place, "--debug")
    ended = command(*arguments)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "UnknownModel" in ended.err


def test_debug_after_two_hyphens_is_a_prompt(command: Command, model: Path) -> None:
    ended = command("generate", "-m", model, "--json", "--length", "1", "--", "--debug")
    assert ended.records[0]["prompt"] == "--debug"


# ---- help


def test_version(command: Command) -> None:
    assert command("--version") == Ended(0, f"gpt2rt {__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_holds_an_example(command: Command, name: str) -> None:
    for option in ("--help", "-h"):
        ended = command(name, option)
        assert (ended.code, ended.err) == (0, "")
        assert "Examples:" in ended.out
        assert f" gpt2rt {name}" in ended.out.split("Examples:")[1]
    assert name in command("--help").out


def test_no_command_shows_the_help(command: Command) -> None:
    ended = command()
    assert ended.code == 2
    assert "generate" in ended.out + ended.err
