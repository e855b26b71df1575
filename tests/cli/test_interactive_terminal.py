"""`gpt2rt interactive` in a terminal: Ctrl-C, history, completion."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from command_line import MANY, PROMPT, posix, start


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

    def read_until(self, wanted: str, key: str = "", patience: float = 300) -> str:
        """What is shown up to `wanted`; `key` is pressed until it comes.

        A key that meets the terminal between two prompts is lost, as it is for a person.
        """
        seen, end = b"", time.monotonic() + patience
        self.type(key)
        while wanted.encode() not in seen:
            assert time.monotonic() < end, f"{wanted!r} did not come; shown: {seen!r}"
            ready, _, _ = select.select([self._master], [], [], 10)
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
        end = time.monotonic() + 300
        with suppress(OSError):  # the terminal was closed
            while self.process.poll() is None and time.monotonic() < end:
                self.type("\x04")
                if select.select([self._master], [], [], 2)[0]:
                    os.read(self._master, 1 << 16)
        return self.process.wait(timeout=300)

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


@pytest.mark.slow
@posix
def test_interactive_on_a_terminal_remembers_and_survives_ctrl_c(model: Path, home: Path) -> None:
    pty, _ = pytest.importorskip("pty"), pytest.importorskip("readline")
    master, slave = pty.openpty()
    options = ("interactive", "-m", model, *MANY)
    environment = {**os.environ, "TERM": "dumb"}
    process = start(*options, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""

    def read_until(wanted: bytes) -> None:
        nonlocal seen
        while wanted not in seen:
            seen += os.read(master, 1 << 16)
        seen = seen[seen.index(wanted) + len(wanted) :]

    read_until(PROMPT.encode())
    os.write(master, b"hello\n")
    read_until(b"SAMPLE 1 ")
    process.send_signal(signal.SIGINT)
    read_until(PROMPT.encode())
    os.write(master, b"\n")
    read_until(b"the prompt is empty")
    read_until(PROMPT.encode())
    os.write(master, b"\x04")
    with suppress(OSError):  # Linux tells the end of a terminal so
        while os.read(master, 1 << 16):
            pass
    assert process.wait(timeout=300) == 0  # a person has seen what was refused
    os.close(master)
    assert "hello" in (home / "history").read_text().splitlines()
