"""The texts a command works on, from its arguments, files and standard input; where results go."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gpt2rt.cli.typed import typed
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting
from gpt2rt.textfile import decoded

Texts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Texts; `-` reads one from standard input.", show_default=False, metavar="TEXT"
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="A file of UTF-8 text; may be repeated.", show_default=False),
]
Lines = Annotated[
    bool, typer.Option("--lines", help="Every line that is not blank is a text of its own.")
]


@dataclass(frozen=True, slots=True)
class Source:
    """A text and where it came from."""

    name: str
    text: str


def read(
    texts: list[str] | None, files: list[Path] | None, lines: bool, escape: bool
) -> list[Source]:
    """The texts, arguments first; only those have escapes.

    Raises `InvalidSetting` where there are none, `BadText`.

    The newline that ends a file or standard input is not part of the text.
    """
    if not texts and not files:
        raise InvalidSetting("name a text, or `-` for standard input, or --file FILE")
    if (texts or []).count("-") > 1:
        raise InvalidSetting("standard input can be read once only: give `-` once")
    found = [*_arguments(texts or [], escape), *(_file(path) for path in files or [])]
    if lines:
        found = [part for source in found for part in _lines(source)]
    for source in found:
        if not source.text:
            raise BadText(f"{source.name} is empty: there is nothing to read")
    if not found:
        raise BadText("every line is blank: there is nothing to read")
    return found


def stdin() -> str:
    """Standard input as UTF-8, less the newline that ends a file."""
    return _unended(decoded(sys.stdin.buffer.read(), "standard input"))


def _arguments(texts: list[str], escape: bool) -> Iterator[Source]:
    for number, text in enumerate(texts, 1):
        if text == "-":
            yield Source("standard input", stdin())
        else:
            yield Source(f"text {number}", typed(text, escape))


def _file(path: Path) -> Source:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadText(f"{path}: {error.strerror}; name a file of text") from None
    return Source(str(path), _unended(decoded(data, str(path))))


def _unended(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _lines(source: Source) -> Iterator[Source]:
    for number, line in enumerate(source.text.split("\n"), 1):
        if line.strip():
            yield Source(f"{source.name}, line {number}", line.removesuffix("\r"))


def check_output(path: Path | None) -> None:
    """Raises `Gpt2rtError` where no file can be written, before any work is done in vain."""
    if path is None:
        return
    if path.is_dir():
        raise Gpt2rtError(f"{path}: is a directory; name a file")
    if not path.absolute().parent.is_dir():
        raise Gpt2rtError(f"{path}: its directory does not exist; make it first")
    if path.exists() and not path.is_file():  # a device or a pipe
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise Gpt2rtError(
            f"{path}: its directory cannot be written to ({error.strerror}); choose another"
        ) from None
    os.close(handle)
    os.unlink(name)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises `Gpt2rtError`."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, never to be replaced
            path.write_bytes(data)
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise Gpt2rtError(f"{path}: cannot be written ({error.strerror})") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
