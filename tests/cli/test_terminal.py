"""What others wrote is shown without control characters, and otherwise as it is."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from command_line import start
from gpt2rt.bundles.manifest import PARITY
from gpt2rt.cli.completion import model_names
from gpt2rt.cli.output.terminal import Screen, escaped
from gpt2rt.text.controls import json_line

# A title, hidden text, a movement and a colour in C1 form, a text turned around, Rich's markup.
HOSTILE = "\x1b]0;x\x07\x1b[8m\x1b[2A\x9b31m\u202e\u2066\r[red]y\x7f"
# What we draw with: colours, and the movements of Rich's bars. None of them is in HOSTILE.
OURS = re.compile(r"\x1b\[(?:0|1|2|3|4|22|3\d|9\d)(?:;(?:\d+))*m|\x1b\[(?:\?25[lh]|2K|1A)|\r")
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudoterminals")


@pytest.mark.parametrize("text", ["plain [red]", "漢字 é 👩🏽", "عربي"])
def test_printable_text_stays(text: str) -> None:
    assert escaped(text) == text


def test_controls_are_escaped() -> None:
    assert escaped("a\x1b[2J\x9b\x7f\u202e\n\t", keep="\n") == ("a\\x1b[2J\\x9b\\x7f\\u202e\n\\x09")


def test_a_screen_shows_what_it_would_obey_and_lets_colours_of_richs_pass() -> None:
    below = io.StringIO()
    screen = Screen(below)
    assert screen.write("a\x1b[1m\n") == 6
    screen.rich_proxied_file.write("\x1b[1mb\x1b[2Jc\x1b[0m")
    assert below.getvalue() == "a\\x1b[1m\n\x1b[1mb\\x1b[2Jc\x1b[0m"


def test_json_has_no_control_and_the_same_value() -> None:
    text = json_line({HOSTILE: "漢" + HOSTILE})
    assert not OBEYED.search(text)
    assert "漢" in text
    assert json.loads(text) == {HOSTILE: "漢" + HOSTILE}


@pytest.fixture
def hostile(home: Path, model: Path) -> Path:
    """A bundle of a hostile name, with a hostile report."""
    place = home / "bundles" / HOSTILE
    shutil.copytree(model, place)
    (place / PARITY).write_text(json.dumps({"text": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}))
    return place


def test_a_name_that_cannot_be_typed_is_not_offered(hostile: Path) -> None:
    assert HOSTILE in {path.name for path in hostile.parent.iterdir()}
    assert HOSTILE not in model_names()


def shown(*arguments: str | Path, typed: bytes = b"") -> str:
    """All that a command writes to a terminal, both streams, less what we draw with."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "300"}
    process = start(*arguments, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    os.write(master, typed)
    seen = b""
    ender = threading.Timer(600, process.kill)
    ender.start()
    with suppress(OSError):  # Linux tells the end of a terminal so
        while more := os.read(master, 1 << 16):
            seen += more
    process.wait(timeout=300)
    ender.cancel()
    os.close(master)
    text = seen.decode()
    assert ("Traceback" in text) is ("--debug" in arguments)
    assert "\r[red]" not in text
    return OURS.sub("", text)


ESCAPE_TOKEN = ("--logit-bias", "\\x1b=1000", "--length", "3", "--seed", "1")
TYPED = rb"\x1b]0;x\x07\u202e\u009b".decode()


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["models", "--json"],
        ["models", "info", "BUNDLE"],
        ["models", "info", "BUNDLE", "--json"],
        ["generate", TYPED, "-m", "BUNDLE", *ESCAPE_TOKEN],
        ["generate", TYPED, "-m", "BUNDLE", *ESCAPE_TOKEN, "--json"],
        ["generate", TYPED, "-m", "BUNDLE", *ESCAPE_TOKEN, "--show-probs"],
        ["generate", "--file", "FILE", "-m", "BUNDLE", "--output", "OUTPUT", *ESCAPE_TOKEN],
        ["generate", "--file", "FILE", "-m", "BUNDLE", *ESCAPE_TOKEN],
        ["score", TYPED, "-m", "BUNDLE", "--top", "2"],
        ["score", TYPED, "-m", "BUNDLE", "--by", "word"],
        ["score", TYPED, "-m", "BUNDLE", "--csv"],
        ["score", "--file", "FILE", "--lines", "-m", "BUNDLE", "--json"],
        ["score", "--file", "FILE", "--by", "text", "--lines", "-m", "BUNDLE"],
        ["embed", "--file", "FILE", "--lines", "-m", "BUNDLE"],
        ["embed", TYPED, "again", "--cosine", "-m", "BUNDLE"],
        ["eval", "lambada", "--data", "FILE", "--models", "BUNDLE", "--records", "OUTPUT"],
        ["pack", "BUNDLE", "--output", "OUTPUT"],
        ["unpack", "FILE"],
        ["models", "remove", "BUNDLE", "--yes"],
        ["models", "remove", HOSTILE, "--yes"],
        ["export", "FILE", "--output", "OUTPUT"],
        ["verify", "BUNDLE", "--checkpoint", "FILE"],
        ["download", HOSTILE],
        ["bench", "BUNDLE", "--model", HOSTILE],
        ["bench", "BUNDLE", "--prompt", "8", "--batch", "1", "--steps", "2", "--rounds", "1"],
        ["doctor"],
        ["generate", "--replay", "FILE"],
        ["generate", "--nosuch" + HOSTILE],
        ["nosuch" + HOSTILE],
        ["generate", "--length", HOSTILE],
        ["--debug", "score", "x", "--file", HOSTILE],
    ],
    ids=lambda arguments: escaped(" ".join(arguments))[:50],
)
def test_no_command_shows_what_a_terminal_obeys(
    hostile: Path, tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / f"{HOSTILE}.txt"
    file.write_text(f"plain\n{HOSTILE}\n{'long ' * 60}\n")
    places = {"BUNDLE": hostile, "FILE": file, "OUTPUT": tmp_path / f"out{HOSTILE}"}
    text = shown(*(places.get(argument, argument) for argument in arguments))
    assert text
    assert not OBEYED.findall(text)


@pytest.mark.slow
@posix
def test_interactive_shows_what_a_terminal_would_obey(hostile: Path) -> None:
    lines = ["hello", "/model", "/set bad_words", "/nosuch", "/set length x\u202e", "/quit"]
    typed = "".join(f"{line}\n" for line in lines).encode()
    text = shown("interactive", "-m", hostile, *ESCAPE_TOKEN, "--bad-word", TYPED, typed=typed)
    # The terminal itself echoes what is typed, which is the person's own.
    assert OBEYED.findall(text.replace("/set length x\u202e", "")) == []
    assert r"\x1b]0;x" in text
