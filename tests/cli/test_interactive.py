"""The interactive command as people use it: commands, long texts, history, Ctrl-C, a terminal."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from command_line import Command, run_process
from gpt2rt.cli import entries

PROMPT = "Model prompt >>> "
SHORT = ("--length", "3", "--seed", "1")


def answers(output: str) -> list[str]:
    """The samples in what the command printed."""
    return re.findall(r"SAMPLE \d+ =+\n(.*?)\n(?:=+ SAMPLE|={80})", output, re.DOTALL)


# ---- commands, in a pipe


def test_again_gives_the_next_answer_to_the_same_prompt(command: Command, model: Path) -> None:
    asked = command("interactive", "-m", model, *SHORT, stdin=b"hello\nhello\n")
    again = command("interactive", "-m", model, *SHORT, stdin=b"hello\n/again\n")
    assert answers(again.out) == answers(asked.out)
    assert len(answers(again.out)) == 2


def test_a_seed_repeats_an_answer(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"hello\n/seed 1\nhello\n")
    first, second = answers(ended.out)
    assert first == second


def test_set_is_what_the_option_is(command: Command, model: Path) -> None:
    option = command("interactive", "-m", model, "--top-k", 2, *SHORT, stdin=b"hello\n")
    typed = command("interactive", "-m", model, *SHORT, stdin=b"/set top_k 2\nhello\n")
    length = command("interactive", "-m", model, "--seed", 1, "--length", 9, stdin=b"hello\n")
    longer = command("interactive", "-m", model, *SHORT, stdin=b"/set length 9\nhello\n")
    assert answers(typed.out) == answers(option.out)
    assert answers(longer.out) == answers(length.out)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--special", "--no-special"])
def test_control_tokens_in_a_prompt_are_what_generate_makes_of_them(
    command: Command, model: Path, flag: str
) -> None:
    prompt = "a<|endoftext|>b"
    said = command("generate", prompt, "-m", model, *SHORT, flag).out
    wanted = [said.removesuffix("\n")]
    option = command("interactive", "-m", model, *SHORT, flag, stdin=f"{prompt}\n".encode())
    value = {"--special": "on", "--no-special": "off"}[flag]
    typed = f"/set special {value}\n{prompt}\n/set special\n".encode()
    changed = command("interactive", "-m", model, *SHORT, stdin=typed)
    assert answers(option.out) == answers(changed.out) == wanted
    assert f"special {value}\n" in changed.out


def test_set_alone_shows_the_settings(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"/set\n/set top_k\n")
    assert re.search(r"^(Model prompt >>> )?temperature +1\.0$", ended.out, re.MULTILINE)
    assert re.search(r"^length +3$", ended.out, re.MULTILINE)
    assert re.search(r"^seed +1$", ended.out, re.MULTILINE)
    assert f"{PROMPT}top_k 0\n" in ended.out


def test_help_names_every_command(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, stdin=b"/help\n")
    for name in ("again", "set", "seed", "model", "help", "quit"):
        assert f"/{name} " in ended.out


def test_quit_ends_the_session(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"/quit\nhello\n")
    assert (ended.code, ended.out) == (0, PROMPT)


def test_the_model_can_be_changed(command: Command, model: Path, home: Path) -> None:
    other = model.parent / "fp32"
    stdin = f"/model {other}\n/model\nhello\n".encode()
    ended = command("interactive", "-m", model, *SHORT, stdin=stdin)
    direct = command("interactive", "-m", other, *SHORT, stdin=b"hello\n")
    assert f"{PROMPT}tiny-fp32 is answering\n" in ended.out
    assert answers(ended.out) == answers(direct.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("/foo", "unknown command /foo; /help lists them"),
        ("/set top_k", ""),
        ("/set top_k x", "top_k takes a whole number, not 'x'"),
        ("/set top_k -1", "top_k must be 0 (off) or more"),
        ("/set tpo_k 1", "unknown setting 'tpo_k': did you mean top_k?"),
        ("/set nosuch", "unknown setting 'nosuch'"),
        ("/set nsamples -1", "nsamples must be 1 to"),
        ("/seed x", "seed takes a whole number"),
        ("/model nosuch", "unknown model 'nosuch'"),
        ("/again", "nothing was asked yet"),
    ],
)
def test_a_wrong_command_costs_one_line(
    command: Command, model: Path, typed: str, reason: str
) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=f"{typed}\nhello\n".encode())
    assert len(answers(ended.out)) == 1
    if reason:
        assert ended.err.startswith(f"gpt2rt: {reason}")
        assert ended.err.count("\n") == 1
    assert ended.code == (1 if reason else 0)


def test_a_path_is_a_text_and_no_command(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b"/etc/hosts is\n")
    assert len(answers(ended.out)) == 1
    assert ended.code == 0


def test_a_block_is_a_text_and_no_command(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b'"""\n/help\n"""\n"""/quit"""\n')
    assert len(answers(ended.out)) == 2
    assert ended.code == 0


# ---- texts of several lines


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("one", "one"),
        ("one\\\ntwo", "one\ntwo"),
        ("one\\\n\\\nthree", "one\n\nthree"),
        ('"""one"""', "one"),
        ('"""\none\n\ntwo\n"""', "one\n\ntwo\n"),
        ('"""one\\\n/set\n  two"""', "one\\\n/set\n  two"),
        ("one\\", "one"),
        ("\\n", "\\n"),
    ],
)
def test_a_text_may_have_several_lines(
    monkeypatch: pytest.MonkeyPatch, typed: str, text: str
) -> None:
    lines = iter(typed.split("\n"))

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert entries.entry(PROMPT)[0] == text
    with pytest.raises(EOFError):
        entries.entry(PROMPT)


def test_several_lines_are_one_prompt(command: Command, model: Path) -> None:
    text = command("generate", "a\nb", "-m", model, *SHORT, "--json").records[0]["text"]
    for stdin in (b"a\\\nb\n", b'"""a\nb"""\n'):
        ended = command("interactive", "-m", model, *SHORT, stdin=stdin)
        assert answers(ended.out) == [text]


def test_a_text_that_is_not_closed_is_told(command: Command, model: Path) -> None:
    ended = command("interactive", "-m", model, *SHORT, stdin=b'"""a\nb\n')
    assert ended.err == 'gpt2rt: the input ended within a text that """ began; close it\n'
    assert ended.code == 1


# ---- UTF-8 whatever the locale says


@pytest.mark.slow
@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"}],
)
def test_text_is_utf_8_in_any_locale(model: Path, tmp_path: Path, locale: dict[str, str]) -> None:
    prompts = tmp_path / "prompts"
    prompts.write_bytes("né 👋\n".encode())
    runs = []
    for extra in ({"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}, locale):
        base = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHONIO"))}
        with prompts.open("rb") as stdin:
            options = ("interactive", "-m", model, *SHORT)
            runs.append(run_process(*options, stdin=stdin, env=base | extra))
    assert runs[0] == runs[1]
    assert runs[0].code == 0


# ---- a terminal


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
        pytest.importorskip("readline")
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", "gpt2rt", "interactive", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "dumb", **environment},
            preexec_fn=_control(slave),
        )
        os.close(slave)

    def read_until(self, wanted: str, key: str = "", patience: float = 60) -> str:
        """What is shown up to `wanted`; `key` is pressed until it comes.

        A key that meets the terminal between two prompts is lost, as it is for a person.
        """
        seen, end = b"", time.monotonic() + patience
        self.type(key)
        while wanted.encode() not in seen:
            assert time.monotonic() < end, f"{wanted!r} did not come; shown: {seen!r}"
            ready, _, _ = select.select([self._master], [], [], 2)
            if not ready:
                self.type(key)
                continue
            try:
                seen += os.read(self._master, 1)
            except OSError:  # the terminal was closed
                raise AssertionError(f"ended before {wanted!r}; shown: {seen!r}") from None
        return seen.decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Ctrl-D; returns the exit code."""
        end = time.monotonic() + 60
        with suppress(OSError):  # the terminal was closed
            while self.process.poll() is None and time.monotonic() < end:
                self.type("\x04")
                if select.select([self._master], [], [], 2)[0]:
                    os.read(self._master, 1 << 16)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def _control(slave: int):  # type: ignore[no-untyped-def]
    """Makes the terminal the one whose Ctrl-C goes to the command."""

    def take() -> None:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    return take


@pytest.fixture
def terminal(model: Path, home: Path) -> Iterator[Terminal]:
    terminal = Terminal("-m", model, "--length", 4)
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_ctrl_c_drops_a_line_and_keeps_the_session(terminal: Terminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type("not this")
    terminal.read_until("not this")
    terminal.read_until(PROMPT, key="\x03")
    terminal.type("hello\n")
    terminal.read_until("SAMPLE 1 ")
    terminal.read_until(PROMPT)
    assert terminal.end() == 0


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_and_keeps_the_session(model: Path, home: Path) -> None:
    terminal = Terminal("-m", model, "-n", "5000", "--no-end-of-text")
    try:
        terminal.read_until(PROMPT)
        terminal.type("hello\n")
        terminal.read_until("SAMPLE 2 ")
        terminal.type("\x03")
        terminal.read_until(PROMPT)
        terminal.type("/set nsamples\n")
        terminal.read_until("nsamples 5000")
        terminal.read_until(PROMPT)
        assert terminal.end() == 0
    finally:
        terminal.close()


@pytest.mark.slow
def test_history_goes_on_in_the_next_session(terminal: Terminal, model: Path, home: Path) -> None:
    terminal.read_until(PROMPT)
    terminal.type("né 👋\n")
    terminal.read_until(PROMPT)
    assert terminal.end() == 0
    assert (home / "history").read_text(encoding="utf-8").splitlines() == ["né 👋"]
    later = Terminal("-m", model, "--length", 4, LC_ALL="C")
    try:
        later.read_until(PROMPT)
        later.type("\x10")  # Ctrl-P: the line before
        later.read_until("né 👋")
        later.type("\n")
        later.read_until("SAMPLE 1 ")
        later.read_until(PROMPT)
        assert later.end() == 0
    finally:
        later.close()
    assert (home / "history").read_text(encoding="utf-8").splitlines() == ["né 👋"]


@pytest.mark.slow
def test_what_is_typed_is_utf_8_in_the_c_locale(model: Path, home: Path) -> None:
    terminal = Terminal("-m", model, "--length", 4, LC_ALL="C")
    try:
        terminal.read_until(PROMPT)
        terminal.type("né 👋\n")
        terminal.read_until(PROMPT)
        assert terminal.end() == 0
    finally:
        terminal.close()
    assert (home / "history").read_text(encoding="utf-8").splitlines() == ["né 👋"]


@pytest.mark.slow
def test_tab_completes_commands_and_settings(terminal: Terminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type("/se\t")
    terminal.type("t temp\t0.5\n/set temperature\n")
    terminal.read_until("temperature 0.5")
    terminal.read_until(PROMPT)
    assert terminal.end() == 0
