"""The parts of a job made by this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpt2rt.corpus.jobs import Job, RowResult
from gpt2rt.corpus.parts import DonePart, Layout
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.shards import Shard

MOST_READY = 16  # shards of nothing but faults that are held until a batch has ended


@dataclass(slots=True)
class OpenShard:
    """A shard in progress."""

    shard: Shard
    results: list[RowResult] = field(default_factory=list)


def made(
    job: Job,
    model: Any,
    shards: Iterable[Shard],
    layout: Layout,
    advance: Callable[[int], None] = lambda rows: None,
) -> Iterator[DonePart]:
    """Write the parts of all shards, each returned when its files are in place.

    `advance` is called with the number of rows done since its last call. Raises as `Job.results`
    and `Layout.write`.
    """
    for done in finished(job, model, shards, advance):
        yield layout.write(done.shard, done.results)


def finished(
    job: Job,
    model: Any,
    shards: Iterable[Shard],
    advance: Callable[[int], None] = lambda rows: None,
) -> Iterator[OpenShard]:
    """All shards with the results of their rows, each when its last row is done.

    Rows of the next shard begin while the last ones of a shard end, so no batch runs empty at a
    shard's end; therefore shards may come in another order. Where `shards` raises, those before are
    done first. Raises as `Job.results`.
    """
    home: dict[int, OpenShard] = {}  # by the number of a row
    ready: list[OpenShard] = []
    failed: list[Exception] = []
    rest = _until_failure(shards, failed)
    more = True

    def take(result: RowResult) -> None:
        place = home.pop(result.row.number)
        place.results.append(result)
        if len(place.results) == len(place.shard.rows):
            ready.append(place)

    def rows() -> Iterator[TextRow]:
        nonlocal more
        for shard in rest:
            place = OpenShard(shard)
            home.update({row.number: place for row in shard.rows})
            for row in shard.rows:
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


def _until_failure(shards: Iterable[Shard], failed: list[Exception]) -> Iterator[Shard]:
    """The shards up to an error, which is noted."""
    try:
        yield from shards
    except Exception as error:
        failed.append(error)
