"""Token probabilities in the terminal: colours for a person, figures elsewhere, the text kept."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys

import pytest

from gpt2rt.cli.output import colours

PIECES = [("The", 0.93), (" cat", 0.12), ("", 0.5), (" né\n", 0.004), ("[red]x[/red]", None)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def paint(stream: io.StringIO) -> str:
    painter = colours.Painter(stream)
    painter.legend()
    for text, probability in PIECES:
        painter.piece(text, probability)
    return stream.getvalue()


def test_a_terminal_gets_a_legend_and_colours(terminal: Terminal) -> None:
    shown = paint(terminal)
    assert shown.startswith("probability: \x1b[")
    assert "\x1b[94mThe\x1b[0m" in shown
    assert "[red]x[/red]" in shown  # text is no markup


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colours_gets_figures(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert paint(terminal) == "The[93%] cat[12%] né\n[0.4%][red]x[/red]"


def test_a_pipe_gets_figures(terminal: Terminal) -> None:
    assert "\x1b" not in paint(io.StringIO())


@pytest.mark.parametrize("coloured", [True, False])
def test_the_text_is_kept(coloured: bool) -> None:
    plain = colours.rendered(PIECES, coloured=coloured).plain
    if not coloured:
        for figures in ("[93%]", "[12%]", "[0.4%]"):
            plain = plain.replace(figures, "", 1)
    assert plain == "".join(text for text, _ in PIECES)


PAINT = """
from gpt2rt.cli.output import colours
painter = colours.Painter()
painter.legend()
painter.piece(" cat", 0.9)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_real_terminal(settings: dict[str, str], coloured: bool) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    master, slave = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**kept, "TERM": "xterm", **settings}
    subprocess.run([sys.executable, "-c", PAINT], stdout=slave, env=environment, check=True)
    shown = os.read(master, 1 << 16).decode()
    os.close(slave)
    os.close(master)
    if coloured:
        assert shown.startswith("probability: ")
        assert shown.endswith("\x1b[94m cat\x1b[0m")
    else:
        assert shown == " cat[90%]"


def test_a_long_line_is_not_folded(terminal: Terminal) -> None:
    painter = colours.Painter(terminal)
    for _ in range(300):
        painter.piece(" word", 0.5)
    assert "\n" not in terminal.getvalue()


def test_every_probability_has_a_place_on_the_scale() -> None:
    looks = [look for _, look in colours.SCALE]
    places = [looks.index(colours.style(p)) for p in (1, 0.8, 0.79, 0.3, 0.1, 0.02, 1e-9, 0)]
    assert places == sorted(places)
    assert set(places) == set(range(len(looks)))
    assert colours.style(math.nan) == looks[-1]


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(1, "100%"), (0.5, "50%"), (0.01, "1%"), (0.0099, "1.0%"), (0.002, "0.2%"), (0, "<0.1%")],
)
def test_figures_are_short(probability: float, shown: str) -> None:
    assert colours.per_cent(probability) == shown
