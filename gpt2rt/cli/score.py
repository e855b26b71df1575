"""`gpt2rt score`: how likely the model finds a text, token by token and word by word."""

from __future__ import annotations

import sys
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import typer

from gpt2rt import GPT2, Document, Score
from gpt2rt.cli import corpora, heatmap, opening, options, tables, texts, typed
from gpt2rt.cli.printing import print_json
from gpt2rt.cli.ray_option import Ray
from gpt2rt.cli.score_records import Sheet, numbered, record, rows
from gpt2rt.cli.score_tables import Result, summaries, table
from gpt2rt.cli.texts import Source
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.score_job import ScoreJob
from gpt2rt.corpus.score_records import Unit
from gpt2rt.errors import InvalidSetting

PREVIOUS = "previous"  # of --context: the texts before it
AUTO = "auto"  # of --bos: the token that begins a text


class Form(StrEnum):
    """How results are printed for programs."""

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
            help="A row of the table, of --csv, tsv or --output.",
            show_default="token; word with tsv; text with --output",
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format",
            help="json and csv as --json and --csv; tsv: tab-separated, with numbers of item and "
            "word, as R and pandas read it.",
            show_default="table",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a text.")] = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print comma-separated values for programs: cells are texts as they are, which "
            "a spreadsheet may take for formulas.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page that colours the tokens.", show_default=False),
    ] = None,
    output: corpora.OutputFiles = None,
    shard_rows: corpora.ShardRows = None,
    ray: Ray = None,
    actors: corpora.Actors = None,
    threads: options.ThreadCount = None,
    provider: options.Provider = "auto",
) -> None:
    """Score TEXT: log-probability and surprisal of every token and word, perplexity.

    The first token is scored after <|endoftext|>, see --bos. Surprisal is in bits.

    Examples:

      gpt2rt score "The cat sat on the mat." --top 5

      gpt2rt score " Paris" " Rome" --context "The capital of France is"

      gpt2rt score --file book.txt --stride 512 --by word --csv > surprisal.csv

      gpt2rt score --file sentences.txt --lines --boundary trailing --format tsv > words.tsv

      gpt2rt score --file story.txt --lines --context previous --stride 512 --format tsv > words.tsv

      gpt2rt score --file items.csv --column sentence --context previous --format tsv > words.tsv

      gpt2rt score --file corpus/ --output scores.parquet/ --ray 10.0.0.1:6379

      gpt2rt score "Once upon a time" --bos none

      gpt2rt score --file page.txt --html page.html --top 5

      gpt2rt score --file corpus/ --column text --output scores.parquet
    """
    if as_json and as_csv:
        raise InvalidSetting("--json and --csv exclude each other")
    if form is not None and (as_json or as_csv):
        raise InvalidSetting("--format excludes --json and --csv")
    as_json, as_csv = as_json or form is Form.JSON, as_csv or form in (Form.CSV, Form.TSV)
    unit = by or (Unit.WORD if form is Form.TSV else Unit.TOKEN)
    follow = context == PREVIOUS
    before = None if context is None or follow else typed.typed(context, escape)
    between = typed.typed(joint, escape)
    corpora.check_shard_rows(shard_rows, output)
    cluster = corpora.elsewhere(ray, actors, model, output)
    if output is not None:
        if text or as_json or as_csv or html:
            raise InvalidSetting(
                "--output is for --file; TEXT, --json, --csv, --format and --html go without it"
            )
        place = Destination.of(output)
        corpora.work(
            ScoreJob(
                by or Unit.TEXT,
                _bos(bos, escape),
                before,
                follow,
                between,
                special,
                window,
                stride,
                boundary,
                top,
            ),
            corpora.corpus_of(file, lines, column),
            place,
            opening.bundle_of(model),
            opening.loading(threads, provider),
            shard_rows,
            cluster,
        )
        return
    sources = texts.read(text, file, lines, escape, column)
    groups = _documents(sources, follow)
    whole = [Document(tuple(source.text for source in group), between) for group in groups]
    texts.check_output(html)
    gpt2 = opening.load(model, threads, provider=provider)
    bar = tables.Bar("Score", lambda: _size(gpt2, whole), printed=as_json or as_csv)
    found = gpt2.score_batch(
        (document.text for document in whole),
        bos=_bos(bos, escape),
        context=before,
        special=special,
        window=window,
        stride=stride,
        boundary=boundary,
        top=top,
        advance=bar.advance,
    )
    results = (
        pair
        for group, document, score in zip(groups, whole, found, strict=True)
        for pair in zip(group, document.parts(score), strict=True)
    )
    sheet = Sheet("\t" if form is Form.TSV else ",")
    kept: list[Result] = []
    try:
        with bar:
            for item, (source, result) in enumerate(results, 1):
                if as_json:
                    body = record(gpt2, source, result)
                    print_json(body)
                elif as_csv:
                    lines_of = rows(source, result, unit)
                    sheet.write(numbered(item, lines_of, unit) if form is Form.TSV else lines_of)
                if html or not (as_json or as_csv):
                    kept.append((source, result))
    finally:  # where a text fails, too, what was done before it is shown
        if html and kept:
            texts.write(html, heatmap.page(gpt2.name, kept).encode("utf-8"))
            print(f"gpt2rt: wrote {html}", file=sys.stderr)
        if kept and not (as_json or as_csv):
            if html is None:
                table(kept, unit, top)
            if html or unit is not Unit.TEXT:
                summaries(kept)
            if bos != AUTO:
                print(_begun(kept[0][1]))


def _documents(sources: list[Source], follow: bool) -> list[list[Source]]:
    """The texts of each document; every text is one of its own unless they `follow` each other."""
    if not follow:
        return [[source] for source in sources]
    return [list(group) for _, group in groupby(sources, lambda source: source.document)]


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
