"""A part: consecutive rows of a corpus, whose results are one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.values import plain
from gpt2rt.text.controls import json_line


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """Consecutive rows, at least one; `number` counts from 0."""

    number: int
    rows: tuple[TextRow, ...]

    @property
    def digest(self) -> str:
        """A hash of all that the results depend on: numbers, places, texts and other columns."""
        found = hashlib.sha256()
        for row in self.rows:
            place = row.number, row.source, row.line, row.document
            line = json_line([*place, row.text, row.fault, plain(row.columns)])
            found.update(line.encode())
        return found.hexdigest()


def cut(rows: Iterable[TextRow], size: int, *, together: bool = False) -> Iterator[CorpusPart]:
    """The rows in parts of `size`, the last one of fewer; read as they are asked for.

    `together`: a part ends only where a document does.
    """
    held: list[TextRow] = []
    number = 0
    for row in rows:
        full = len(held) >= size
        if full and not (together and held[-1].document == row.document):
            yield CorpusPart(number, tuple(held))
            held, number = [], number + 1
        held.append(row)
    if held:
        yield CorpusPart(number, tuple(held))
