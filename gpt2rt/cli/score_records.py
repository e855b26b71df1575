"""Scores for programs: records of JSON, rows of CSV and TSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from gpt2rt import GPT2, Score
from gpt2rt.cli.texts import Source
from gpt2rt.corpus.rows import ITEM
from gpt2rt.corpus.score_records import Unit, records, token_record
from gpt2rt.corpus.values import cell
from gpt2rt.errors import InvalidSetting


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
    """The rows of `--csv`, with where they are from, the columns of a table included.

    Raises `InvalidSetting`.
    """
    for record in records(result, by):
        row = {"source": source.name, **record}
        if both := source.columns.keys() & row.keys():
            raise InvalidSetting(
                f"{source.name}: the column {min(both)!r} is one of the results, too; rename it"
            )
        yield {**{name: cell(value) for name, value in source.columns.items()}, **row}


def numbered(item: int, rows: Iterable[dict[str, Any]], by: Unit) -> Iterator[dict[str, Any]]:
    """The rows of a text with its number, unless a table has an item, and theirs, from 1 on."""
    for number, row in enumerate(rows, 1):
        place = {} if by is Unit.TEXT else {f"{by}_number": number}
        if both := place.keys() & row.keys():
            raise InvalidSetting(f"the column {min(both)!r} is one of the results, too; rename it")
        yield {ITEM: item, **place, **row}


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
