"""Every text of a corpus scored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import ClassVar

from gpt2rt.corpus.jobs import Job, Kind, Record, RowResult, attempted
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.score_records import Unit, columns, records
from gpt2rt.model import GPT2
from gpt2rt.scoring.document import Document
from gpt2rt.scoring.reading import AUTO_BOS, Bos
from gpt2rt.scoring.score import Boundary, Score

EMPTY = "the text is empty: there is nothing to score"
Group = tuple[TextRow, ...]


@dataclass(frozen=True, slots=True)
class ScoreJob(Job):
    """Scores as `GPT2.score` gives them, with its settings.

    Attributes:
        unit: what a record stands for.
        documents: whether each text is scored after those before it of its document.
        joint: what stands between the texts of a document.
    """

    unit: Unit = Unit.TEXT
    bos: Bos = AUTO_BOS
    context: str | None = None
    documents: bool = False
    joint: str = " "
    special: bool | None = None
    window: int | None = None
    stride: int | None = None
    boundary: Boundary = "leading"
    top: int = 0

    name: ClassVar[str] = "score"

    @property
    def together(self) -> bool:
        return self.documents

    def settings(self) -> Record:
        return asdict(self)

    def columns(self) -> dict[str, Kind]:
        found = columns(self.unit, self.top)
        first: Kind = "text" if self.unit is Unit.TEXT else "int"
        return {self._first: first, **found}

    @property
    def _first(self) -> str:
        return "text" if self.unit is Unit.TEXT else f"{self.unit.value}_number"

    def results(self, model: GPT2, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        def scored(groups: Iterable[Group]) -> Iterator[Score]:
            return model.score_batch(
                (self._document(group).text for group in groups),
                bos=self.bos,
                context=self.context,
                special=self.special,
                window=self.window,
                stride=self.stride,
                boundary=self.boundary,
                top=self.top,
            )

        self._document(())
        empty: deque[TextRow] = deque()
        for group, score, fault in attempted(self._groups(_filled(rows, empty)), scored):
            yield from _faults(empty)
            if score is None:
                yield from (RowResult(row, faults=(fault,)) for row in group)
                continue
            for row, part in zip(group, self._document(group).parts(score), strict=True):
                yield RowResult(row, tuple(self._records(part)))
        yield from _faults(empty)

    def _groups(self, rows: Iterable[TextRow]) -> Iterator[Group]:
        """Rows that are scored as one text."""
        if not self.documents:
            return ((row,) for row in rows)
        return (tuple(group) for _, group in groupby(rows, lambda row: row.document))

    def _document(self, group: Group) -> Document:
        return Document(tuple(str(row.text) for row in group), self.joint)

    def _records(self, score: Score) -> Iterator[Record]:
        for number, record in enumerate(records(score, self.unit), 1):
            yield {self._first: score.text if self.unit is Unit.TEXT else number, **record}


def _filled(rows: Iterable[TextRow], empty: deque[TextRow]) -> Iterator[TextRow]:
    """The rows that are not empty; the others would take their whole document with them."""
    for row in rows:
        if row.text:
            yield row
        else:
            empty.append(row)


def _faults(empty: deque[TextRow]) -> Iterator[RowResult]:
    while empty:
        yield RowResult(empty.popleft(), faults=(EMPTY,))
