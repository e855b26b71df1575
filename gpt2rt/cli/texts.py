"""The texts a command works on, from its arguments, files and standard input; where results go."""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from gpt2rt.bundles.paths import path_text
from gpt2rt.bundles.writing import write_bytes
from gpt2rt.cli.typed import decoded_option, typed
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting
from gpt2rt.text.textfile import decoded

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


Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="Files are tables, .csv or else tab-separated, whose first line names the columns; "
        "texts are in this one, and the others stand beside the results.",
        show_default=False,
        callback=decoded_option,
    ),
]
ITEM = "item"  # the column by which the rows of a table are of one document


@dataclass(frozen=True, slots=True)
class Source:
    """A text and where it came from; those of one `document`, in a row, follow each other there.

    `columns` are the other cells of its row of a table.
    """

    name: str
    text: str
    document: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


def read(
    texts: list[str] | None,
    files: list[Path] | None,
    lines: bool,
    escape: bool,
    column: str | None = None,
) -> list[Source]:
    """The texts, arguments first; only those have escapes. With a `column`, files are tables.

    Raises `InvalidSetting` where there are none, `BadText`.

    The newline that ends a file or standard input is not part of the text. All arguments are one
    document, every file is one; of a table, rows that follow each other with the same `item` are.
    """
    if column is not None and (lines or not files):
        raise InvalidSetting("--column is for tables in --file, whose rows are the texts")
    if not texts and not files:
        raise InvalidSetting("name a text, or `-` for standard input, or --file FILE")
    if (texts or []).count("-") > 1:
        raise InvalidSetting("standard input can be read once only: give `-` once")
    found = [*_arguments(texts or [], escape)]
    for number, path in enumerate(files or [], 1):
        source = _file(path, f"file {number}")
        found += [source] if column is None else _rows(source, column)
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
            yield Source("standard input", stdin(), "standard input")
        else:
            yield Source(f"text {number}", typed(text, escape))


def _file(path: Path, document: str) -> Source:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadText(f"{path}: {error.strerror}; name a file of text") from None
    name = path_text(path)
    return Source(name, _unended(decoded(data, name)), document)


def _unended(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _lines(source: Source) -> Iterator[Source]:
    for number, line in enumerate(source.text.split("\n"), 1):
        if line.strip():
            name = f"{source.name}, line {number}"
            yield Source(name, line.removesuffix("\r"), source.document)


def _rows(source: Source, column: str) -> Iterator[Source]:
    """The rows of a table. Raises `BadText` naming the line where it is none."""
    delimiter = "," if source.name.lower().endswith(".csv") else "\t"
    reader = csv.reader(io.StringIO(source.text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if column not in names or len(set(names)) < len(names):
            raise BadText(
                f"{source.name}: the first line must name every column once, {column!r} among "
                f"them; it has {', '.join(map(repr, names)) or 'nothing'}"
            )
        for cells in reader:
            if not cells:  # a blank line
                continue
            name = f"{source.name}, line {reader.line_num}"
            if len(cells) != len(names):
                raise BadText(f"{name}: {len(cells)} cells, and {len(names)} columns; mend it")
            columns = dict(zip(names, cells, strict=True))
            text = columns.pop(column)
            yield Source(name, text, f"{source.document} {columns.get(ITEM, '')}", columns)
    except csv.Error as error:
        place = f"{source.name}, line {reader.line_num}"
        raise BadText(f"{place}: no table ({error}); mend it") from None


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
