"""How likely each token was, shown in its text: by colour on a terminal, else in figures.

The scale runs from blue (expected) over green and yellow to red (a surprise). The ends differ in
brightness too, and what is unlikely is underlined, so the scale can be read without red and green.
`NO_COLOR`, `TERM=dumb` and anything but a terminal get the figures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SCALE = (  # the least probability, and what it looks like
    (0.80, "bright_blue"),
    (0.40, "cyan"),
    (0.15, "green"),
    (0.05, "yellow"),
    (0.01, "magenta underline"),
    (0.00, "bright_red bold underline"),
)


class Painter:
    """Prints pieces of text as they come, each with the probability of its token."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Prints to `stream`, standard output unless told otherwise."""
        from gpt2rt.cli.output.consoles import PlainConsole

        self._stream = stream or sys.stdout
        self._console = PlainConsole(stream=self._stream, soft_wrap=True)
        self.coloured = _coloured(self._console)

    def legend(self) -> None:
        """Print what the colours mean; nothing where there are figures."""
        if self.coloured:
            self._console.print(legend())

    def piece(self, text: str, probability: float | None) -> None:
        """Print `text` as it is, coloured, or followed by its probability."""
        shown = rendered([(text, probability)], coloured=self.coloured)
        if self.coloured:
            self._console.print(shown, end="")
        else:
            self._stream.write(shown.plain)  # nothing folded, no tab widened
        self._stream.flush()


def rendered(pieces: Iterable[tuple[str, float | None]], *, coloured: bool) -> Text:
    """Pieces with their probabilities (0 to 1; None: not known) as one text.

    Without colours a piece is followed by its probability in per cent: ` cat[12%]`. A piece without
    text (part of a character) shows nothing.
    """
    from rich.text import Text

    whole = Text(end="")
    for text, probability in pieces:
        if not text:
            continue
        if probability is None:
            whole.append(text)
        elif coloured:
            whole.append(text, style(probability))
        else:
            whole.append(f"{text}[{per_cent(probability)}]")
    return whole


def legend() -> Text:
    """The scale in its own colours: `80% or more`, `40%`, ..., `less`."""
    from rich.text import Text

    parts = [Text("probability: ")]
    for least, look in SCALE:
        words = f"{per_cent(least)} or more" if least else f"below {per_cent(SCALE[-2][0])}"
        parts += [Text(words, look), Text(", ")]
    return Text.assemble(*parts[:-1])


def style(probability: float) -> str:
    """What a token of this probability looks like."""
    return next(look for least, look in SCALE if probability >= least or not least)


def per_cent(probability: float) -> str:
    """Two figures at most: `97%`, `3%`, `0.2%`, `<0.1%`."""
    if probability >= 0.00995:
        return f"{probability:.0%}"
    return f"{probability:.1%}" if probability >= 0.001 else "<0.1%"


def _coloured(console: Console) -> bool:
    wanted = not os.environ.get("NO_COLOR")
    return wanted and console.is_terminal and console.color_system is not None
