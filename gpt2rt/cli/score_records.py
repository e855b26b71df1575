"""Scores for programs: records of JSON, rows of CSV and TSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

from gpt2rt import GPT2, Score, TokenScore
from gpt2rt.cli import texts
from gpt2rt.cli.texts import Source
from gpt2rt.errors import InvalidSetting


class Unit(StrEnum):
    """What a row of a table stands for."""

    TOKEN = "token"
    WORD = "word"
    TEXT = "text"


def token_record(token: TokenScore) -> dict[str, Any]:
    body = token.as_dict()
    if not token.alternatives:
        del body["alternatives"]
    return body


def record(gpt2: GPT2, source: Source, result: Score) -> dict[str, Any]:
    """A text as `--json` prints it."""
    return {
        "model": gpt2.name,
        "source": source.name,
        **({"columns": dict(source.columns)} if source.columns else {}),
        **result.as_dict(),
        "tokens": [token_record(token) for token in result.tokens],
    }


def rows(source: Source, result: Score, by: Unit) -> Iterator[dict[str, Any]]:
    """The rows of `--csv`."""
    if by is Unit.TEXT:
        yield beside(source, result.totals)
    elif by is Unit.WORD:
        for word in result.words:
            yield beside(source, word.as_dict())
    else:
        for token in result.tokens:
            row = token_record(token)
            row.pop("alternatives", None)
            for number, other in enumerate(token.alternatives, 1):
                row[f"alternative_{number}"] = other.text
                row[f"probability_{number}"] = other.probability
            yield beside(source, row)


def beside(source: Source, row: dict[str, Any]) -> dict[str, Any]:
    """A row with where it is from, the columns of a table included. Raises `InvalidSetting`."""
    row = {"source": source.name, **row}
    if both := source.columns.keys() & row.keys():
        raise InvalidSetting(
            f"{source.name}: the column {min(both)!r} is one of the results, too; rename it"
        )
    return {**source.columns, **row}


def numbered(item: int, rows: Iterable[dict[str, Any]], by: Unit) -> Iterator[dict[str, Any]]:
    """The rows of a text with its number, unless a table has an item, and theirs, from 1 on."""
    for number, row in enumerate(rows, 1):
        place = {} if by is Unit.TEXT else {f"{by}_number": number}
        if both := place.keys() & row.keys():
            raise InvalidSetting(f"the column {min(both)!r} is one of the results, too; rename it")
        yield {texts.ITEM: item, **place, **row}


class Sheet:
    """Separated values on standard output, under the names of the first row."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._writer: csv.DictWriter[str] | None = None

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            if self._writer is None:
                # Every text in quotes: the writer would leave a carriage return without them.
                self._writer = csv.DictWriter(
                    sys.stdout,
                    list(row),
                    delimiter=self._delimiter,
                    lineterminator="\n",
                    quoting=csv.QUOTE_NONNUMERIC,
                )
                self._writer.writeheader()
            self._writer.writerow(row)
