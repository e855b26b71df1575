"""What a terminal is shown of strings that others wrote: no character that it would obey.

Every command prints through `guard`'s streams, so that no call has to think of it. Rich, whose own
colours and cursor movements have to pass, is met in `gpt2rt.cli.output.consoles`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from gpt2rt.text.controls import CONTROLS, restored

COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")


def escaped(text: str, keep: str = "") -> str:
    """`text` with control characters as `\\x1b`; printable text of all scripts as it is, also that
    of a path in a locale without UTF-8.
    """
    return CONTROLS.sub(
        lambda found: found[0] if found[0] in keep else _escape(found[0]), restored(text)
    )


def _escape(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a path, see `gpt2rt.bundles.paths`
        return f"\\x{ord(c) & 0xFF:02x}"
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


class Screen:
    """A text stream whose reader sees control characters but newline and tab as `\\x1b`."""

    def __init__(self, below: TextIO, coloured: bool = False) -> None:
        """Writes to `below`; `coloured` lets colours pass, for a writer that makes its own."""
        self.below = self.next = below  # the terminal; what comes before it
        self._coloured = coloured

    @property
    def rich_proxied_file(self) -> Screen:
        """What a console of Rich's that is not ours, such as Typer's help, writes to instead."""
        return Screen(self.below, coloured=True)

    def write(self, text: str) -> int:
        parts = COLOURS.split(text) if self._coloured else [text]
        parts[::2] = [escaped(part, keep="\n\t") for part in parts[::2]]  # between them: colours
        self.next.write("".join(parts))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.next, name)


def guard(stream: TextIO) -> TextIO:
    """`stream`, through which nothing passes that a terminal would obey."""
    return stream if isinstance(stream, Screen) else cast(TextIO, Screen(stream))


def unguarded(stream: TextIO) -> TextIO:
    """The stream that `stream` guards, for who escapes by itself."""
    return stream.below if isinstance(stream, Screen) else stream


@contextmanager
def diverted(stream: TextIO, above: TextIO) -> Iterator[None]:
    """Let what is printed to a guarded `stream` go to `above`, which knows what lies below."""
    if not isinstance(stream, Screen):
        yield
        return
    stream.next = above
    try:
        yield
    finally:
        above.flush()
        stream.next = stream.below


@contextmanager
def undisturbed() -> Iterator[None]:
    """What libraries write to the streams by themselves is dropped: to standard output, and past
    Python to standard error.
    """
    sys.stderr.flush()
    own = os.dup(2)
    with open(os.devnull, "w") as nothing, os.fdopen(own, "w", 1, "utf-8", "replace") as kept:
        os.dup2(nothing.fileno(), 2)
        try:
            with redirect_stdout(nothing), redirect_stderr(guard(kept)):
                yield
        finally:
            kept.flush()
            os.dup2(own, 2)


def guard_streams() -> None:
    """Standard error is for people wherever it goes; standard output is where it is a terminal."""
    if sys.stdout.isatty():
        sys.stdout = guard(sys.stdout)
    sys.stderr = guard(sys.stderr)
