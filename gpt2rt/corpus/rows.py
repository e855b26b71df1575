"""A row of a corpus: a text, where it stands, and the other columns beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text of a corpus, or what is wrong with it.

    Attributes:
        number: its number among all rows of the corpus, from 1; blank lines count.
        source: the name of its file.
        line: the line of the file where it ends (Parquet: its row there), from 1.
        text: the text; for a prompt also token ids, or None to begin a text from nothing.
        columns: the other columns, by name.
        document: rows in a row that share it are of one document.
        fault: why this row is no text; None: it is one.
    """

    number: int
    source: str
    line: int
    text: str | tuple[int, ...] | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    document: str = ""
    fault: str | None = None
