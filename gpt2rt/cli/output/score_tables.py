"""Scores for people: tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gpt2rt import Score
from gpt2rt.cli.output import tables
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.score_records import Unit

Result = tuple[TextRow, Score]


def table(pairs: list[Result], by: Unit, top: int) -> None:
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
    for number, (row, result) in enumerate(pairs):
        if by is not Unit.TEXT and len(pairs) > 1:
            table.add_row(f"{row.place}:", *[""] * (len(table.columns) - 1))
        for cells in _cells(row, result, by):
            table.add_row(*cells)
        if by is not Unit.TEXT and number + 1 < len(pairs):
            table.add_row(*[""] * len(table.columns))
    tables.show(table)
    if by is not Unit.TEXT:
        print()


def summaries(pairs: list[Result]) -> None:
    for row, result in pairs:
        print(summary(f"{row.place}: " if len(pairs) > 1 else "", result))


def _cells(row: TextRow, result: Score, by: Unit) -> Iterator[list[str]]:
    if by is Unit.TEXT:
        found = result.totals
        counts = [f"{found[name]:,}" for name in ("tokens", "words")]
        names = ("perplexity", "word_perplexity", "byte_perplexity")
        yield [
            tables.quoted(result.text[:40]) if row.source.startswith("text ") else row.place,
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
    found = result.totals
    return (
        f"{name}{len(result.tokens):,} tokens, {result.bits:,.2f} bits; perplexity "
        f"{_number(found['perplexity'])} a token, {_number(found['word_perplexity'])} a word, "
        f"{_number(found['byte_perplexity'])} a byte; {_number(found['bits_per_byte'], 3)} bits a "
        "byte"
    )
