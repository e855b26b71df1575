"""The texts a command works on, from its arguments, files and standard input; where results go."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2rt.bundles.writing import write_bytes
from gpt2rt.cli.typed import decoded_option, typed
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.readers import WHOLE
from gpt2rt.corpus.values import plain
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting
from gpt2rt.text.textfile import decoded

Texts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Texts; `-` reads one from standard input.", show_default=False, metavar="TEXT"
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        help="Text, JSON lines, CSV, TSV or Parquet, by the file's name, also compressed; a "
        "directory of them, or a glob. May be repeated.",
        show_default=False,
    ),
]
Lines = Annotated[
    bool, typer.Option("--lines", help="Every line that is not blank is a text of its own.")
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="The column of a table, or the name in JSON lines, with the texts; the others stand "
        "beside the results. A file whose name tells no form is tab-separated then.",
        show_default="text",
        callback=decoded_option,
    ),
]


@dataclass(frozen=True, slots=True)
class Source:
    """A text and where it came from; those of one `document`, in a row, follow each other there.

    `columns` are the other cells of its row of a table.
    """

    name: str
    text: str
    document: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


def read(
    texts: list[str] | None,
    files: list[str] | None,
    lines: bool,
    escape: bool,
    column: str | None = None,
) -> list[Source]:
    """The texts, arguments first; only those have escapes.

    Raises `InvalidSetting` where there are none, `BadText`, `BadData`, `MissingExtra`.

    The newline that ends a file or standard input is not part of the text. All arguments are one
    document, every file is one; of a table, rows that follow each other with the same `item` are.
    """
    check_column(column, lines, files)
    if not texts and not files:
        raise InvalidSetting("name a text, or `-` for standard input, or --file FILE")
    if (texts or []).count("-") + (files or []).count("-") > 1:
        raise InvalidSetting("standard input can be read once only: give `-` once")
    found = [*_arguments(texts or [], escape)]
    if lines:
        found = [part for source in found for part in _lines(source)]
    found += _rows(corpus(files or [], lines, column))
    for source in found:
        if not source.text:
            raise BadText(f"{source.name} is empty: there is nothing to read")
    if not found:
        raise BadText("every line is blank: there is nothing to read")
    return found


def check_column(column: str | None, lines: bool, files: list[str] | None) -> None:
    """Raises `InvalidSetting` for a column of what has none."""
    if column is not None and (lines or not files):
        raise InvalidSetting("--column is for tables in --file, whose rows are the texts")


def corpus(files: list[str], lines: bool, column: str | None) -> Corpus:
    """The texts of files. Raises `BadData`."""
    return Corpus.of(files, column=column, plain="txt" if lines else WHOLE)


def stdin() -> str:
    """Standard input as UTF-8, less the newline that ends a file."""
    return _unended(decoded(sys.stdin.buffer.read(), "standard input"))


def _arguments(texts: list[str], escape: bool) -> Iterator[Source]:
    for number, text in enumerate(texts, 1):
        if text == "-":
            yield Source("standard input", stdin(), "standard input")
        else:
            yield Source(f"text {number}", typed(text, escape))


def _unended(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _lines(source: Source) -> Iterator[Source]:
    for number, line in enumerate(source.text.split("\n"), 1):
        if line.strip():
            name = f"{source.name}, line {number}"
            yield Source(name, line.removesuffix("\r"), source.document)


def _rows(corpus: Corpus) -> Iterator[Source]:
    """The rows of files. Raises `BadText` for one that is no text."""
    whole = {file.name for file in corpus.files if file.form == WHOLE}
    for row in corpus.rows():
        name = row.source if row.source in whole else f"{row.source}, line {row.line}"
        if row.fault is not None:
            raise BadText(f"{name}: {row.fault}")
        yield Source(name, str(row.text), row.document, plain(row.columns))


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
        write_bytes(path, data)
    except OSError as error:
        raise Gpt2rtError(f"{path}: cannot be written ({error.strerror})") from None
