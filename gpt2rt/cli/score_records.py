"""Scores for programs: records of JSON, rows of CSV and TSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from gpt2rt import GPT2, Score, TokenScore, WordScore
from gpt2rt.cli import heatmap, texts
from gpt2rt.cli.texts import Source
from gpt2rt.errors import InvalidSetting


class Unit(StrEnum):
    """What a row of a table stands for."""

    TOKEN = "token"
    WORD = "word"
    TEXT = "text"


def totals(result: Score) -> dict[str, Any]:
    """What is known of the text as a whole; None where a number is not known or beyond all."""
    found = {
        "tokens": len(result.tokens),
        "scored": len(result.scored),
        "words": len(result.words),
        "bytes": result.bytes,
        "logprob": result.logprob,
        "bits": result.bits,
        "perplexity": result.perplexity,
        "word_perplexity": result.word_perplexity,
        "byte_perplexity": result.byte_perplexity,
        "bits_per_byte": result.bits_per_byte,
    }
    return {name: heatmap.known(value) for name, value in found.items()}


def token_record(token: TokenScore) -> dict[str, Any]:
    body = asdict(token)
    alternatives = body.pop("alternatives")
    numbers = {"logprob": token.logprob, "bits": token.bits, "probability": token.probability}
    body |= {name: heatmap.known(value) for name, value in numbers.items()}
    return body | ({"alternatives": alternatives} if alternatives else {})


def word_record(word: WordScore) -> dict[str, Any]:
    return asdict(word) | {"bits": heatmap.known(word.bits)}


def record(gpt2: GPT2, source: Source, result: Score) -> dict[str, Any]:
    """A text as `--json` prints it."""
    return {
        "model": gpt2.name,
        "source": source.name,
        **({"columns": dict(source.columns)} if source.columns else {}),
        "text": result.text,
        "bos": result.bos,
        "context": result.context,
        "preceding": result.preceding,
        "window": result.window,
        "stride": result.stride,
        "boundary": result.boundary,
        "totals": totals(result),
        "tokens": [token_record(token) for token in result.tokens],
        "words": [word_record(word) for word in result.words],
    }


def rows(source: Source, result: Score, by: Unit) -> Iterator[dict[str, Any]]:
    """The rows of `--csv`."""
    if by is Unit.TEXT:
        yield beside(source, totals(result))
    elif by is Unit.WORD:
        for word in result.words:
            yield beside(source, word_record(word))
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
