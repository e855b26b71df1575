"""Commands over whole corpora: from files to files, what failed told at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import typer

from gpt2rt import Bundle
from gpt2rt.cli.input import fetch, opening, texts
from gpt2rt.cli.input.corpus_options import PART_ROWS, Elsewhere
from gpt2rt.cli.output.last_words import last_words
from gpt2rt.cli.output.records import Watch, tell_fault
from gpt2rt.cli.output.rows_bar import RowsBar
from gpt2rt.cli.output.terminal import undisturbed
from gpt2rt.corpus import ray_data
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.jobs import Job
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.local import made, unchanged
from gpt2rt.corpus.output import Output
from gpt2rt.corpus.part import cut
from gpt2rt.corpus.rows import place as place_of
from gpt2rt.errors import InvalidSetting

LOST = (
    "gpt2rt: this program was killed, or the cluster lost its node; what was done is kept, and the "
    "same command goes on"
)
TOLD = 10  # rejects on standard error; the file has all


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
    model: str | None,
    loading: Loading,
    part_rows: int | None,
    cluster: Elsewhere | None,
    watch: Watch = lambda model, rows: rows,
) -> None:
    """Do a job with every row of a corpus; ends with exit code 1 where rows could not be done.

    `model` is as in --model, and is loaded where anything is left to do. Rows pass `watch` on their
    way, unless a `cluster` reads them. Raises `Gpt2rtError`; what was done until then is kept.
    """
    bar = RowsBar(lambda: corpus.bytes, printed=False)
    size = part_rows or PART_ROWS
    bundle = fetch.find(model)
    with ExitStack() as opened:
        if cluster is not None:
            ray_data.check_corpus(corpus)
            opened.enter_context(last_words(LOST))
            opened.enter_context(undisturbed())
        output = opened.enter_context(Output(place, job, bundle, corpus, size))
        due = output.remaining()
        parts: Iterator[Any]
        if due.complete:  # no model is loaded, no cluster joined
            rows = cut(corpus.rows(bar.read), size, together=job.together)
            parts = unchanged(due, rows, bar.advance)
        elif cluster is None:
            loaded = _loaded(job, bundle, loading)
            rows = cut(watch(loaded, corpus.rows(bar.read)), size, together=job.together)
            parts = made(job, loaded, due.of(rows), output.layout, bar.advance)
        else:
            opened.enter_context(ray_data.joined(cluster.address))
            parts = ray_data.made(
                job,
                model,
                bundle,
                corpus,
                size,
                due,
                output.layout,
                loading,
                actors=cluster.actors,
                meter=bar.read,
                advance=bar.advance,
            )
        if model is None and not due.complete:
            opening.tell_of(bundle)
        try:
            with bar:
                for part in parts:
                    output.add(part)
            output.finish()
        except OSError as error:
            raise place.failure(error) from error
        _tell(output)


def _loaded(job: Job, bundle: Bundle, loading: Loading) -> Any:
    """The model of a job. Raises for settings that it does not allow."""
    model = job.load(bundle, loading)
    for _ in job.results(model, ()):
        raise AssertionError("results of nothing")
    return model


def _tell(output: Output) -> None:
    """What failed, on standard error. Raises `typer.Exit` for anything."""
    if not output.rejects:
        return
    with output.place.rejects.open("rb") as lines:
        for line in islice(lines, TOLD):
            body = json.loads(line)
            tell_fault(place_of(body["source"], body["line"]), body["reason"])
    print(
        f"gpt2rt: {output.rejects:,} of {output.rows:,} rows could not be done: "
        f"{output.place.rejects} has them",
        file=sys.stderr,
    )
    raise typer.Exit(1)
