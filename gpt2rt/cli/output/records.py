"""Records on standard output, each as soon as it is made, in the form that `--output` writes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import typer

from gpt2rt.cli.input.texts import GivenTexts
from gpt2rt.cli.output.rows_bar import RowsBar
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.jobs import Job, RowResult
from gpt2rt.corpus.local import until_failure
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.tables import Placed, table_of

JSONL = "jsonl"
Watch = Callable[[Any, Iterator[TextRow]], Iterator[TextRow]]


def show(
    job: Job,
    model: Any,
    given: Corpus | GivenTexts,
    form: str = JSONL,
    columns: Mapping[str, Any] | None = None,
    watch: Watch = lambda model, rows: rows,
) -> None:
    """Print the records of all rows, in their order; ends with exit code 1 where rows could not be
    done, of which it tells on standard error.

    Rows are read as there is room for them, so any number takes the memory of a few; they pass
    `watch` on their way. `form` and `columns` are those of `Table`. Raises as `Job.results`,
    `table_of`, and what reads the rows; what was done before that is printed.
    """
    table, bar = table_of(job, form, columns), RowsBar(lambda: given.bytes, printed=True)
    failed = False

    def records() -> Iterator[Placed]:
        nonlocal failed
        for result in in_order(job, model, watch(model, given.rows(bar.read))):
            yield from ((result.row, record) for record in result.records)
            for fault in result.faults:
                tell_fault(result.row.place, fault)
                failed = True
            bar.advance(1)

    with bar:
        for line in table.lines(records()):
            print(line.decode(), end="", flush=True)
    if failed:
        raise typer.Exit(1)


def in_order(job: Job, model: Any, rows: Iterable[TextRow]) -> Iterator[RowResult]:
    """The results of a job in the order of the rows, those that are no text with their faults.

    Where `rows` raises, those before are done first.
    """
    order: deque[int] = deque()
    done: dict[int, RowResult] = {}
    failed: list[Exception] = []

    def texts() -> Iterator[TextRow]:
        for row in until_failure(rows, failed):
            order.append(row.number)
            if row.fault is None:
                yield row
            else:
                done[row.number] = RowResult(row, faults=(row.fault,))

    for result in job.results(model, texts()):
        done[result.row.number] = result
        while order and order[0] in done:
            yield done.pop(order.popleft())
    while order:
        yield done.pop(order.popleft())
    for error in failed:
        raise error


def tell_fault(place: str, fault: str) -> None:
    """Say what is wrong with a row."""
    print(f"gpt2rt: {place}: {fault}", file=sys.stderr)
