"""`gpt2rt score`: how likely the model finds a text, token by token and word by word."""

from __future__ import annotations

import sys
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import typer

from gpt2rt import GPT2, Document, Score
from gpt2rt.cli.input import corpus_options, opening, options, texts, typed
from gpt2rt.cli.input.ray_option import Ray
from gpt2rt.cli.output import heatmap, records, result_files, tables
from gpt2rt.cli.output.score_tables import Result, summaries, table
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.score_job import ScoreJob
from gpt2rt.corpus.score_records import Unit
from gpt2rt.errors import InvalidSetting

PREVIOUS = "previous"  # of --context: the texts before it
AUTO = "auto"  # of --bos: the token that begins a text


class Form(StrEnum):
    """How records are printed for programs."""

    JSON = "json"
    CSV = "csv"
    TSV = "tsv"


def score(
    text: texts.Texts = None,
    model: options.Model = None,
    file: texts.Files = None,
    lines: texts.Lines = False,
    column: texts.Column = None,
    escape: typed.Escape = True,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|previous",
            help="What the model reads before each text, not scored; previous: the texts before it "
            "of its document, which is its file, the TEXTs together, or the rows of a table that "
            "follow each other with the same item. See --stride.",
            callback=typed.decoded_option,
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once.", show_default="the context")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens by which the window moves on in longer texts.",
            show_default="none: they are refused",
        ),
    ] = None,
    bos: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="What stands before all: a token's text or id; none: nothing, and the first token "
            "has no score; auto: the tokenizer's, <|endoftext|> in released models.",
            callback=typed.decoded_option,
        ),
    ] = AUTO,
    joint: Annotated[
        str,
        typer.Option(
            help="What stands between the texts of a document.",
            show_default="' '",
            callback=typed.decoded_option,
        ),
    ] = " ",
    special: options.Special = None,
    boundary: Annotated[
        Literal["leading", "trailing"],
        typer.Option(
            help="Where the white space of a word counts; trailing: after it, so that a word is "
            "known to have ended (Pimentel and Meister 2024; Oh and Schuler 2024)."
        ),
    ] = "leading",
    top: Annotated[int, typer.Option(help="Alternatives to give for each token.")] = 0,
    by: Annotated[
        Unit | None,
        typer.Option(
            help="What a row or a record stands for.",
            show_default="token on the screen; text in the records of --json, --format, --output",
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format",
            help="Print the records that --output would write: json and csv as --json and --csv; "
            "tsv: tab-separated, as R and pandas read it.",
            show_default="a table for people",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a record.")] = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print the records as comma-separated values: cells are texts as they are, which "
            "a spreadsheet may take for formulas.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page that colours the tokens.", show_default=False),
    ] = None,
    output: corpus_options.OutputFiles = None,
    part_rows: corpus_options.PartRows = None,
    ray: Ray = None,
    actors: corpus_options.Actors = None,
    threads: options.ThreadCount = None,
    provider: options.Provider = "auto",
) -> None:
    """Score TEXT: log-probability and surprisal of every token and word, perplexity.

    The first token is scored after <|endoftext|>, see --bos. Surprisal is in bits.

    Examples:

      gpt2rt score "The cat sat on the mat." --top 5

      gpt2rt score " Paris" " Rome" --context "The capital of France is"

      gpt2rt score --file book.txt --stride 512 --by word --csv > surprisal.csv

      gpt2rt score --file sentences.txt --lines --boundary trailing --by word --csv > words.csv

      gpt2rt score --file story.txt --lines --context previous --stride 512 --by word --csv

      gpt2rt score --file items.csv --column sentence --context previous --by word --format tsv

      gpt2rt score --file corpus/ --output scores.parquet/ --ray 10.0.0.1:6379

      gpt2rt score "Once upon a time" --bos none

      gpt2rt score --file page.txt --html page.html --top 5

      gpt2rt score --file corpus/ --column text --output scores.parquet
    """
    if as_json and as_csv:
        raise InvalidSetting("--json and --csv exclude each other")
    if form is not None and (as_json or as_csv):
        raise InvalidSetting("--format excludes --json and --csv")
    form = Form.JSON if as_json else Form.CSV if as_csv else form
    unit = by or (Unit.TEXT if form or output is not None else Unit.TOKEN)
    if top and html is None and unit is not Unit.TOKEN:
        raise InvalidSetting("--top is for tokens: give --by token, too")
    follow = context == PREVIOUS
    before = None if context is None or follow else typed.typed(context, escape)
    between = typed.typed(joint, escape)
    begin = _bos(bos, escape)
    job = ScoreJob(unit, begin, before, follow, between, special, window, stride, boundary, top)
    corpus_options.check_part_rows(part_rows, output)
    cluster = corpus_options.elsewhere(ray, actors, output)
    loading = opening.loading(threads, provider)
    if output is not None:
        if text or form or html:
            raise InvalidSetting(
                "--output is for --file; TEXT, --json, --csv, --format and --html go without it"
            )
        from gpt2rt.cli.commands import corpora  # only here, since its imports take a while

        place, corpus = Destination.of(output), corpora.corpus_of(file, lines, column)
        corpora.work(job, corpus, place, model, loading, part_rows, cluster)
        return
    if form and html:
        raise InvalidSetting("--html excludes --json, --csv and --format")
    given = texts.GivenTexts.of(text, file, lines, escape, column)
    if form:
        written, columns = records.JSONL, None
        if form is not Form.JSON:
            written, columns = form.value, given.columns()
        gpt2 = opening.load(model, loading)
        records.show(job, gpt2, given, written, columns)
        return
    rows = given.read()
    result_files.check(html)
    groups = _documents(rows, follow)
    whole = [Document(tuple(str(row.text) for row in group), between) for group in groups]
    gpt2 = opening.load(model, loading)
    bar = tables.Bar("Score", lambda: _size(gpt2, whole), printed=False)
    found = gpt2.score_batch(
        (document.text for document in whole),
        bos=begin,
        context=before,
        special=special,
        window=window,
        stride=stride,
        boundary=boundary,
        top=top,
        advance=bar.advance,
    )
    kept: list[Result] = []
    try:
        with bar:
            for group, document, score in zip(groups, whole, found, strict=True):
                kept += zip(group, document.parts(score), strict=True)
    finally:  # where a text fails, too, what was done before it is shown
        if kept:
            _show(gpt2, kept, unit, top, html, told_bos=bos != AUTO)


def _show(
    gpt2: GPT2, kept: list[Result], unit: Unit, top: int, html: Path | None, told_bos: bool
) -> None:
    """Scores for people: a table or a page, and a line on each text."""
    if html is None:
        table(kept, unit, top)
    else:
        result_files.write(html, heatmap.page(gpt2.name, kept).encode("utf-8"))
        print(f"gpt2rt: wrote {html}", file=sys.stderr)
    if html or unit is not Unit.TEXT:
        summaries(kept)
    if told_bos:
        print(_begun(kept[0][1]))


def _documents(rows: list[TextRow], follow: bool) -> list[list[TextRow]]:
    """The texts of each document; every text is one of its own unless they `follow` each other."""
    if not follow:
        return [[row] for row in rows]
    return [list(group) for _, group in groupby(rows, lambda row: row.document)]


def _bos(text: str, escape: bool) -> int | str | None:
    if text == "none":
        return None
    return int(text) if text.isascii() and text.isdigit() else typed.typed(text, escape)


def _begun(first: Score) -> str:
    if first.bos is not None:
        return f"{tables.quoted(first.bos)} stands before everything."
    return "Nothing stands before the " + (
        "context." if first.context else "first token, which has no score."
    )


def _size(gpt2: GPT2, documents: list[Document]) -> int:
    return sum(len(gpt2.tokenizer.encode(document.text)) for document in documents)
