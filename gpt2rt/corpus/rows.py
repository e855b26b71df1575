"""A row of a corpus: a text, where it stands, and the other columns beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2rt.errors import BadText

ITEM = "item"  # the column by which rows of a table that follow each other are of one document


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text of a corpus, or what is wrong with it.

    Attributes:
        number: its number among all rows of the corpus, from 1; blank lines of text count.
        source: the name of its file.
        line: the line of the file where it ends (Parquet: its row there), from 1; None: it is all
            of its source.
        text: the text; for a prompt also token ids, or None to begin a text from nothing.
        columns: the other columns, by name.
        document: rows in a row that share it are of one document.
        fault: why this row is no text; None: it is one.
    """

    number: int
    source: str
    line: int | None
    text: str | tuple[int, ...] | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    document: str = ""
    fault: str | None = None

    @property
    def place(self) -> str:
        """The row in messages."""
        return place(self.source, self.line)


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row as the reader of a file gives it: the line, a text or a fault, the other columns."""

    line: int | None
    text: str | tuple[int, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


def place(source: str, line: int | None) -> str:
    """A row in messages."""
    return source if line is None else f"{source}, line {line}"


def text_of(value: object, column: str, prompts: bool) -> str | tuple[int, ...] | None:
    """The text that a cell holds; of `prompts` also token ids, or None.

    Raises `BadText`.
    """
    if isinstance(value, str) or (prompts and value is None):
        return value
    ids = isinstance(value, list) and all(type(token) is int for token in value)
    if prompts and ids:
        return tuple(value)  # type: ignore[arg-type]
    wanted = "neither a text nor a list of token ids" if prompts else "no text"
    told = json.dumps(value, default=str)
    raise BadText(f"{column!r} is {wanted}, but {told:.60}")
