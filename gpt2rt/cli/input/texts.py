"""The texts a command works on, from its arguments, files and standard input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from gpt2rt.cli.input import standard_input
from gpt2rt.cli.input.typed import decoded_option, typed
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.names import STDIN_NAME
from gpt2rt.corpus.readers import WHOLE
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.streams import BytesRead
from gpt2rt.errors import BadText, InvalidSetting

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
class GivenTexts:
    """The texts that a command is given: those of its arguments, then the rows of files.

    Attributes:
        arguments: the texts of the arguments, or the lines of them that are not blank.
        numbered: how many rows the arguments count for; those of files are numbered from there.
        corpus: the files, which are read as their rows are asked for.
    """

    arguments: tuple[TextRow, ...]
    numbered: int
    corpus: Corpus

    @classmethod
    def of(
        cls,
        texts: list[str] | None,
        files: list[str] | None,
        lines: bool,
        escape: bool,
        column: str | None = None,
    ) -> GivenTexts:
        """By the options of a command; only arguments have escapes.

        The newline that ends a file or standard input is not part of the text. All arguments are
        one document, every file is one; of a table, rows that follow each other with the same
        `item` are. Raises `InvalidSetting` where nothing is named, `BadText`, `BadData`.
        """
        check_column(column, lines, files)
        if not texts and not files:
            raise InvalidSetting("name a text, or `-` for standard input, or --file FILE")
        if (texts or []).count("-") + (files or []).count("-") > 1:
            raise InvalidSetting("standard input can be read once only: give `-` once")
        found = [*_arguments(texts or [], escape)]
        if lines:
            found = [part for row in found for part in _lines(row)]
        numbered = (replace(row, number=number) for number, row in enumerate(found, 1))
        rows = tuple(row for row in numbered if not lines or str(row.text).strip())
        return cls(rows, len(found), corpus(files or [], lines, column))

    @property
    def bytes(self) -> int | None:
        """The size of all files; None: there are none, or it is not known."""
        return self.corpus.bytes or None

    def columns(self) -> Mapping[str, Any] | None:
        """The columns of a table beside the results, as `Corpus.columns`; None: one of JSON."""
        found = self.corpus.columns()
        return None if self.arguments and found else found

    def rows(self, meter: BytesRead | None = None) -> Iterator[TextRow]:
        """All rows, those that are no text with their `fault`, and empty ones.

        Raises as `Corpus.rows`, and `BadText` in the end where there was none.
        """
        yield from self.arguments
        none = not self.arguments
        for row in self.corpus.rows(meter):
            yield replace(row, number=self.numbered + row.number)
            none = False
        if none:
            raise BadText("no line has a text: there is nothing to read")

    def read(self) -> list[TextRow]:
        """All texts at once. Raises as `rows`, and `BadText` for a row that is no text or empty."""
        found = list(self.rows())
        for row in found:
            if row.fault is not None:
                raise BadText(f"{row.place}: {row.fault}")
            if not row.text:
                raise BadText(f"{row.place} is empty: there is nothing to read")
        return found


def check_column(column: str | None, lines: bool, files: list[str] | None) -> None:
    """Raises `InvalidSetting` for a column of what has none."""
    if column is not None and (lines or not files):
        raise InvalidSetting("--column is for tables in --file, whose rows are the texts")


def corpus(files: list[str], lines: bool, column: str | None) -> Corpus:
    """The texts of files. Raises `BadData`."""
    return Corpus.of(files, column=column, plain="txt" if lines else WHOLE)


def _arguments(texts: list[str], escape: bool) -> Iterator[TextRow]:
    for number, text in enumerate(texts, 1):
        if text == "-":
            yield TextRow(number, STDIN_NAME, None, standard_input.read(), document=STDIN_NAME)
        else:
            name = f"text {number}"
            yield TextRow(number, name, None, typed(text, escape, name))


def _lines(row: TextRow) -> Iterator[TextRow]:
    """The lines of a text, blank ones too, which count."""
    for number, line in enumerate(str(row.text).split("\n"), 1):
        yield replace(row, line=number, text=line.removesuffix("\r"))
