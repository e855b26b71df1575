"""What a person types at a prompt: line editing, history, and texts of several lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from gpt2rt.cli.input.typed import typed
from gpt2rt.errors import BadText
from gpt2rt.text.textfile import MARK

CONTINUED = "... "
BLOCK = '"""'
KEPT = 1000  # lines of history
# GNU readline takes bytes above 127 for commands where the locale is not UTF-8.
EIGHT_BITS = ("set input-meta on", "set output-meta on", "set convert-meta off")


def entry(prompt: str) -> tuple[str, bool]:
    r'''The next text that is typed after `prompt`, and whether it may be a command.

    A line that ends with a backslash goes on with the next one; a text between `"""` and `"""` may
    have any lines, and nothing in it is special. Raises `EOFError` where the input has ended, and
    `BadText` where it ends within a block or is not UTF-8.
    '''
    line = typed(input(prompt)).removeprefix(MARK)  # where a file is the input
    if line.startswith(BLOCK):
        return _block(line.removeprefix(BLOCK)), False
    lines = []
    while line.endswith("\\"):
        lines.append(line.removesuffix("\\"))
        try:
            line = typed(input(CONTINUED))
        except EOFError:
            return "\n".join(lines), True
    return "\n".join([*lines, line]), True


def _block(line: str) -> str:
    lines = []
    while not line.endswith(BLOCK):
        lines.append(line)
        try:
            line = typed(input(CONTINUED))
        except EOFError:
            raise BadText(f"the input ended within a text that {BLOCK} began; close it") from None
    return "\n".join([*lines, line.removesuffix(BLOCK)]).removeprefix("\n")


@contextmanager
def editing(history: Path, completions: Callable[[str], list[str]]) -> Iterator[None]:
    """Line editing with history from session to session, where a person types.

    `completions` gives the whole lines that a line so far may become. Without `readline` in Python
    (Windows) the terminal's own editing has to do.
    """
    readline = _readline() if sys.stdin.isatty() else None
    if readline is None:
        yield
        return
    with suppress(OSError):  # none yet, or not readable
        readline.read_history_file(history)
    readline.set_history_length(KEPT)
    readline.set_completer_delims("")
    readline.set_completer(_completer(completions))
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        for command in ("tab: complete", *EIGHT_BITS):
            readline.parse_and_bind(command)
    try:
        yield
    finally:
        with suppress(OSError):  # a read-only home is no reason to end with an error
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:
        return None
    return readline


def _completer(completions: Callable[[str], list[str]]) -> Callable[[str, int], str | None]:
    def complete(text: str, number: int) -> str | None:
        found = completions(text)
        return found[number] if number < len(found) else None

    return complete
