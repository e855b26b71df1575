"""A job without a model, and rows for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from gpt2rt.corpus.jobs import Job, Kind, Record, RowResult
from gpt2rt.corpus.rows import TextRow

WORDS = ["the cat", "a", "né 👋", "over the hill and far away", "zz top"]


def rows(count: int, documents: int = 1) -> list[TextRow]:
    """Rows of which every seventh is no text."""
    found = []
    for n in range(count):
        fault = "broken" if n % 7 == 3 else None
        text = None if fault else f"{WORDS[n % 5]} {n}"
        document = f"file 1 {n * documents // count}"
        found.append(TextRow(n + 1, "a.jsonl", n + 1, text, {"id": n}, document, fault))
    return found


@dataclass(frozen=True)
class Backwards(Job):
    """Turns texts round, in an order of its own."""

    ahead: int = 5
    name: ClassVar[str] = "backwards"

    def settings(self) -> Record:
        return {}

    def columns(self) -> dict[str, Kind]:
        return {"back": "text"}

    def results(self, model: Any, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        held: list[TextRow] = []
        rng = Random(self.ahead)
        for row in rows:
            held.append(row)
            if len(held) == self.ahead:
                yield self._result(held.pop(rng.randrange(len(held))))
        while held:
            yield self._result(held.pop(rng.randrange(len(held))))

    def _result(self, row: TextRow) -> RowResult:
        return RowResult(row, ({"back": str(row.text)[::-1]},))
