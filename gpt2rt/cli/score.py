"""`gpt2rt score`: how likely the model finds a text, token by token and word by word."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gpt2rt.cli import heatmap, options, tables, texts, typed
from gpt2rt.cli.printing import print_json
from gpt2rt.cli.texts import Source
from gpt2rt.errors import InvalidSetting
from gpt2rt.model import GPT2
from gpt2rt.surprisal import AUTO, Bos, Document, Score, TokenScore, WordScore

Result = tuple[Source, Score]

PREVIOUS = "previous"  # of --context: the texts before it


class Unit(StrEnum):
    """What a row of a table stands for."""

    TOKEN = "token"
    WORD = "word"
    TEXT = "text"


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
        ),
    ] = AUTO,
    joint: Annotated[
        str, typer.Option(help="What stands between the texts of a document.", show_default="' '")
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
            help="A row of the table, of --csv or tsv.", show_default="token; word with tsv"
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

      gpt2rt score "Once upon a time" --bos none

      gpt2rt score --file page.txt --html page.html --top 5
    """
    if as_json and as_csv:
        raise InvalidSetting("--json and --csv exclude each other")
    if form is not None and (as_json or as_csv):
        raise InvalidSetting("--format excludes --json and --csv")
    as_json, as_csv = as_json or form is Form.JSON, as_csv or form in (Form.CSV, Form.TSV)
    unit = by or (Unit.WORD if form is Form.TSV else Unit.TOKEN)
    sources = texts.read(text, file, lines, escape, column)
    follow = context == PREVIOUS
    groups = _documents(sources, follow)
    between = typed.typed(joint, escape)
    whole = [Document(tuple(source.text for source in group), between) for group in groups]
    texts.check_output(html)
    before = None if context is None or follow else typed.typed(context, escape)
    gpt2 = options.load(model, threads, provider=provider)
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
                _table(kept, unit, top)
            if html or unit is not Unit.TEXT:
                _summaries(kept)
            if bos != AUTO:
                print(_begun(kept[0][1]))


def _documents(sources: list[Source], follow: bool) -> list[list[Source]]:
    """The texts of each document; every text is one of its own unless they `follow` each other."""
    if not follow:
        return [[source] for source in sources]
    return [list(group) for _, group in groupby(sources, lambda source: source.document)]


def _bos(text: str, escape: bool) -> Bos:
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


def totals(result: Score) -> dict[str, Any]:
    """What is known of the text as a whole; None where a number is not known or beyond all."""
    found = {
        "tokens": len(result.tokens),
        "scored": len(result.scored),
        "words": len(result.words),
        "bytes": result.bytes,
        "logprob": result.logprob,
        "bits": result.bits,
        "perplexity": result.perplexity,
        "word_perplexity": result.word_perplexity,
        "byte_perplexity": result.byte_perplexity,
        "bits_per_byte": result.bits_per_byte,
    }
    return {name: heatmap.known(value) for name, value in found.items()}


def token_record(token: TokenScore) -> dict[str, Any]:
    body = asdict(token)
    alternatives = body.pop("alternatives")
    numbers = {"logprob": token.logprob, "bits": token.bits, "probability": token.probability}
    body |= {name: heatmap.known(value) for name, value in numbers.items()}
    return body | ({"alternatives": alternatives} if alternatives else {})


def word_record(word: WordScore) -> dict[str, Any]:
    return asdict(word) | {"bits": heatmap.known(word.bits)}


def record(gpt2: GPT2, source: Source, result: Score) -> dict[str, Any]:
    """A text as `--json` prints it."""
    return {
        "model": gpt2.name,
        "source": source.name,
        **({"columns": dict(source.columns)} if source.columns else {}),
        "text": result.text,
        "bos": result.bos,
        "context": result.context,
        "preceding": result.preceding,
        "window": result.window,
        "stride": result.stride,
        "boundary": result.boundary,
        "totals": totals(result),
        "tokens": [token_record(token) for token in result.tokens],
        "words": [word_record(word) for word in result.words],
    }


def rows(source: Source, result: Score, by: Unit) -> Iterator[dict[str, Any]]:
    """The rows of `--csv`."""
    if by is Unit.TEXT:
        yield beside(source, totals(result))
    elif by is Unit.WORD:
        for word in result.words:
            yield beside(source, word_record(word))
    else:
        for token in result.tokens:
            row = token_record(token)
            row.pop("alternatives", None)
            for number, other in enumerate(token.alternatives, 1):
                row[f"alternative_{number}"] = other.text
                row[f"probability_{number}"] = other.probability
            yield beside(source, row)


def beside(source: Source, row: dict[str, Any]) -> dict[str, Any]:
    """A row with where it is from, the columns of a table included. Raises `InvalidSetting`."""
    row = {"source": source.name, **row}
    if both := source.columns.keys() & row.keys():
        raise InvalidSetting(
            f"{source.name}: the column {min(both)!r} is one of the results, too; rename it"
        )
    return {**source.columns, **row}


def numbered(item: int, rows: Iterable[dict[str, Any]], by: Unit) -> Iterator[dict[str, Any]]:
    """The rows of a text with its number, unless a table has an item, and theirs, from 1 on."""
    for number, row in enumerate(rows, 1):
        place = {} if by is Unit.TEXT else {f"{by}_number": number}
        if both := place.keys() & row.keys():
            raise InvalidSetting(f"the column {min(both)!r} is one of the results, too; rename it")
        yield {texts.ITEM: item, **place, **row}


class Sheet:
    """Separated values on standard output, under the names of the first row."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._writer: csv.DictWriter[str] | None = None

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            if self._writer is None:
                # Every text in quotes: the writer would leave a carriage return without them.
                self._writer = csv.DictWriter(
                    sys.stdout,
                    list(row),
                    delimiter=self._delimiter,
                    lineterminator="\n",
                    quoting=csv.QUOTE_NONNUMERIC,
                )
                self._writer.writeheader()
            self._writer.writerow(row)


def _table(pairs: list[Result], by: Unit, top: int) -> None:
    from rich.table import Table

    titles = {
        Unit.TOKEN: ("token", "from", "to", "bits", "probability", "rank"),
        Unit.WORD: ("word", "from", "to", "bits"),
        Unit.TEXT: (
            "text",
            "tokens",
            "words",
            "bits",
            "perplexity",
            "a word",
            "a byte",
            "bits/byte",
        ),
    }[by]
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right")
    if top and by is Unit.TOKEN:
        table.add_column("instead")
    for number, (source, result) in enumerate(pairs):
        if by is not Unit.TEXT and len(pairs) > 1:
            table.add_row(f"{source.name}:", *[""] * (len(table.columns) - 1))
        for cells in _cells(source, result, by):
            table.add_row(*cells)
        if by is not Unit.TEXT and number + 1 < len(pairs):
            table.add_row(*[""] * len(table.columns))
    tables.show(table)
    if by is not Unit.TEXT:
        print()


def _summaries(pairs: list[Result]) -> None:
    for source, result in pairs:
        print(summary(f"{source.name}: " if len(pairs) > 1 else "", result))


def _cells(source: Source, result: Score, by: Unit) -> Iterator[list[str]]:
    if by is Unit.TEXT:
        found = totals(result)
        counts = [f"{found[name]:,}" for name in ("tokens", "words")]
        names = ("perplexity", "word_perplexity", "byte_perplexity")
        yield [
            tables.quoted(result.text[:40]) if source.name.startswith("text ") else source.name,
            *counts,
            f"{result.bits:.2f}",
            *(_number(found[name]) for name in names),
            _number(found["bits_per_byte"], 3),
        ]
    elif by is Unit.WORD:
        for word in result.words:
            yield [tables.quoted(word.text), str(word.start), str(word.end), _bits(word.bits)]
    else:
        for token in result.tokens:
            cells = [tables.quoted(token.text), str(token.start), str(token.end)]
            rank = "-" if token.rank is None else str(token.rank)
            cells += [_bits(token.bits), _percent(token.probability), rank]
            others = (
                f"{tables.quoted(a.text)} {_percent(a.probability)}" for a in token.alternatives
            )
            yield [*cells, "  ".join(others)] if token.alternatives else cells


def _bits(bits: float) -> str:
    return "-" if math.isnan(bits) else f"{bits:.2f}"


def _percent(p: float) -> str:
    return "-" if math.isnan(p) else f"{p:.1%}" if p >= 0.001 else f"{p:.0e}"


def _number(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:,.{places}f}" if value < 1e6 else f"{value:.3g}"


def summary(name: str, result: Score) -> str:
    """A text in a line."""
    found = totals(result)
    return (
        f"{name}{len(result.tokens):,} tokens, {result.bits:,.2f} bits; perplexity "
        f"{_number(found['perplexity'])} a token, {_number(found['word_perplexity'])} a word, "
        f"{_number(found['byte_perplexity'])} a byte; {_number(found['bits_per_byte'], 3)} bits a "
        "byte"
    )
