"""Records on standard output, each as soon as it is made, in the form that `--output` writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import typer

from gpt2rt.cli.corpora import tell_fault
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.jobs import Job, RowResult
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.tables import Placed, table_of

JSONL = "jsonl"


def carried(texts: list[str] | None, corpus: Corpus | None) -> Mapping[str, Any] | None:
    """The columns of a table beside the results of texts and of files; None: one of JSON."""
    found = {} if corpus is None else corpus.columns()
    return None if texts and found else found


def show(
    job: Job,
    model: Any,
    rows: Iterable[TextRow],
    form: str = JSONL,
    columns: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Print the records of all rows, in their order; ends with exit code 1 where rows could not be
    done, of which it tells on standard error.

    `form` and `columns` are those of `Table`; `advance` is called with the number of rows done.
    Raises as `Job.results` and `table_of`.
    """
    table = table_of(job, form, columns)
    failed = False

    def records() -> Iterator[Placed]:
        nonlocal failed
        for result in in_order(job, model, rows):
            yield from ((result.row, record) for record in result.records)
            for fault in result.faults:
                tell_fault(result.row.place, fault)
                failed = True
            advance(1)

    for line in table.lines(records()):
        print(line.decode(), end="", flush=True)
    if failed:
        raise typer.Exit(1)


def in_order(job: Job, model: Any, rows: Iterable[TextRow]) -> Iterator[RowResult]:
    """The results of a job in the order of the rows, those that are no text with their faults."""
    order: deque[int] = deque()
    done: dict[int, RowResult] = {}

    def texts() -> Iterator[TextRow]:
        for row in rows:
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
