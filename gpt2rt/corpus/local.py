"""The parts of a job made by this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpt2rt.corpus.jobs import Job, RowResult
from gpt2rt.corpus.layout import DonePart, Layout
from gpt2rt.corpus.part import CorpusPart
from gpt2rt.corpus.remaining import Remaining
from gpt2rt.corpus.rows import TextRow

T = TypeVar("T")
MOST_READY = 16  # parts of nothing but faults that are held until a batch has ended


@dataclass(slots=True)
class OpenPart:
    """A part in progress."""

    part: CorpusPart
    results: list[RowResult] = field(default_factory=list)


def made(
    job: Job,
    model: Any,
    parts: Iterable[CorpusPart],
    layout: Layout,
    advance: Callable[[int], None] = lambda rows: None,
) -> Iterator[DonePart]:
    """Write the files of all parts, each part returned when they are in place.

    `advance` is called with the number of rows done since its last call. Raises as `Job.results`
    and `Layout.write`.
    """
    for done in finished(job, model, parts, advance):
        yield layout.write(done.part, done.results)


def unchanged(
    remaining: Remaining, parts: Iterable[CorpusPart], advance: Callable[[int], None]
) -> Iterator[DonePart]:
    """No part: all are done. Raises as `Remaining.of` where the corpus is another one."""

    def read() -> Iterator[CorpusPart]:
        for part in parts:
            yield part
            advance(len(part.rows))

    for part in remaining.of(read()):
        raise AssertionError(f"part {part.number} is to be done")
    yield from ()


def finished(
    job: Job,
    model: Any,
    parts: Iterable[CorpusPart],
    advance: Callable[[int], None] = lambda rows: None,
) -> Iterator[OpenPart]:
    """All parts with the results of their rows, each when its last row is done.

    Rows of the next part begin while the last ones of a part end, so no batch runs empty at a
    part's end; therefore parts may come in another order. Where `parts` raises, those before are
    done first. Raises as `Job.results`.
    """
    home: dict[int, OpenPart] = {}  # by the number of a row
    ready: list[OpenPart] = []
    failed: list[Exception] = []
    rest = until_failure(parts, failed)
    more = True

    def take(result: RowResult) -> None:
        place = home.pop(result.row.number)
        place.results.append(result)
        if len(place.results) == len(place.part.rows):
            ready.append(place)

    def rows() -> Iterator[TextRow]:
        nonlocal more
        for part in rest:
            place = OpenPart(part)
            home.update({row.number: place for row in part.rows})
            for row in part.rows:
                if row.fault is None:
                    yield row
                else:
                    take(RowResult(row, faults=(row.fault,)))
                    advance(1)
            if len(ready) >= MOST_READY:
                return
        more = False

    while more:
        for result in job.results(model, rows()):
            take(result)
            advance(1)
            while ready:
                yield ready.pop(0)
        while ready:
            yield ready.pop(0)
    for error in failed:
        raise error


def until_failure(items: Iterable[T], failed: list[Exception]) -> Iterator[T]:
    """The items up to an error, which is noted in `failed`: so those before it are done first."""
    try:
        yield from items
    except Exception as error:
        failed.append(error)
