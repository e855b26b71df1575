"""Commands over whole corpora: from files to files, what failed told at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from gpt2rt import Bundle
from gpt2rt.cli import tables, texts
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.jobs import Job, Loading
from gpt2rt.corpus.local import made
from gpt2rt.corpus.output import Output
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.shards import shards
from gpt2rt.corpus.streams import BytesRead
from gpt2rt.errors import InvalidSetting

TOLD = 10  # rejects on standard error; the file has all
SHARD_ROWS = 1000
PANEL = "Files"

ShardRows = Annotated[
    int | None,
    typer.Option(
        help="Rows of a part of --output, which is written whole or not at all.",
        show_default="1000; generate 100",
        rich_help_panel=PANEL,
    ),
]
OutputFiles = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Where the results of --file go: a file that ends in .jsonl, .csv, .tsv or .parquet, "
        "or a directory of parts (`out.parquet/`). A run that was cut short goes on.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Watch = Callable[[Any, Iterator[TextRow]], Iterator[TextRow]]


def check_shard_rows(shard_rows: int | None, output: object) -> None:
    """Raises `InvalidSetting`."""
    if shard_rows is not None and output is None:
        raise InvalidSetting("--shard-rows is for --output")
    if shard_rows is not None and shard_rows < 1:
        raise InvalidSetting(f"--shard-rows must be 1 or more, not {shard_rows}")


def corpus_of(files: list[str] | None, lines: bool, column: str | None) -> Corpus:
    """The corpus of --file. Raises `InvalidSetting` without one, `BadData`."""
    if not files:
        raise InvalidSetting("--output is for --file; send what is printed elsewhere with `>`")
    texts.check_column(column, lines, files)
    return texts.corpus(files, lines, column)


def work(
    job: Job,
    corpus: Corpus,
    place: Destination,
    bundle: Bundle,
    loading: Loading,
    shard_rows: int | None,
    watch: Watch = lambda model, rows: rows,
) -> None:
    """Do a job with every row of a corpus; ends with exit code 1 where rows could not be done.

    Rows pass `watch` on their way. Raises `Gpt2rtError`; what was done until then is kept.
    """
    model = job.load(bundle, loading)
    for _ in job.results(model, ()):  # settings that the model does not allow leave nothing behind
        raise AssertionError("results of nothing")
    meter, bar = BytesRead(), tables.Bar("rows", lambda: corpus.bytes, printed=False)
    size = shard_rows or SHARD_ROWS
    with Output(place, job, bundle, corpus, size) as output:
        rows = watch(model, corpus.rows(meter))
        due = output.due(shards(rows, size, together=job.together))
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.move(meter.count, f"{done:,} rows")

        with bar:
            for part in made(job, model, due, output.layout, advance):
                output.add(part)
        output.finish()
        _tell(output)


def _tell(output: Output) -> None:
    """What failed, on standard error. Raises `typer.Exit` for anything."""
    if not output.rejects:
        return
    with output.place.rejects.open("rb") as lines:
        for line in islice(lines, TOLD):
            body = json.loads(line)
            tell_fault(f"{body['source']}: line {body['line']}", body["reason"])
    print(
        f"gpt2rt: {output.rejects:,} of {output.rows:,} rows could not be done: "
        f"{output.place.rejects} has them",
        file=sys.stderr,
    )
    raise typer.Exit(1)


def tell_fault(place: str, fault: str) -> None:
    """Say what is wrong with a row."""
    print(f"gpt2rt: {place}: {fault}", file=sys.stderr)


def usable(rows: Iterable[TextRow], failed: Callable[[], None]) -> Iterator[TextRow]:
    """The rows that are texts; what is wrong with others is told, and `failed` called."""
    for row in rows:
        if row.fault is None:
            yield row
        else:
            tell_fault(row.place, row.fault)
            failed()
