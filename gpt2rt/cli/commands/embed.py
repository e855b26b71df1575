"""`gpt2rt embed`: contextual vectors of texts, words and tokens."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from gpt2rt import Embedding, EmbedParams, cosine
from gpt2rt.cli.input import corpus_options, opening, options, texts, typed
from gpt2rt.cli.input.ray_option import Ray
from gpt2rt.cli.output import records, result_files, tables
from gpt2rt.cli.output.printing import print_json
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.embed_job import EmbedJob
from gpt2rt.corpus.rows import TextRow
from gpt2rt.errors import InvalidSetting

Result = tuple[TextRow, Embedding]
AROUND = 40  # characters shown on either side of a word


class VectorUnit(StrEnum):
    """What has a vector."""

    TOKEN = "token"
    WORD = "word"
    TEXT = "text"


class Pooling(StrEnum):
    """How the vectors of tokens become one."""

    MEAN = "mean"
    LAST = "last"
    WEIGHTED = "weighted"


def embed(
    text: texts.Texts = None,
    model: options.Model = None,
    file: texts.Files = None,
    lines: texts.Lines = False,
    column: texts.Column = None,
    escape: typed.Escape = True,
    layer: Annotated[
        int | None,
        typer.Option(
            help="0 is token plus position; the last is taken after ln_f.", show_default="the last"
        ),
    ] = None,
    by: Annotated[
        VectorUnit | None,
        typer.Option(
            help="What has a vector.",
            show_default="token on the screen; text with --cosine, --json and --output",
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            help="Only this word, wherever it stands.",
            show_default=False,
            callback=typed.decoded_option,
        ),
    ] = None,
    pooling: Annotated[
        Pooling,
        typer.Option(help="How the tokens of a word or text make one vector; weighted: as SGPT."),
    ] = Pooling.MEAN,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Make every vector 1 long (L2).")
    ] = False,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Read texts longer than the context in windows that move on by so many tokens.",
            show_default=False,
        ),
    ] = None,
    special: options.Special = None,
    similarity: Annotated[
        bool, typer.Option("--cosine", help="Print the cosine of every two vectors.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where vectors go: a .npy or .npz file of all; of many texts in --file rather "
            ".parquet, .jsonl or .csv, or a directory of parts (`out.parquet/`), by which a run "
            "that was cut short goes on.",
            show_default=False,
            rich_help_panel=corpus_options.PANEL,
        ),
    ] = None,
    part_rows: corpus_options.PartRows = None,
    ray: Ray = None,
    actors: corpus_options.Actors = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a vector.")] = False,
    threads: options.ThreadCount = None,
) -> None:
    """Contextual vectors of TEXT: the hidden states of a layer.

    A .npy file holds the vectors of all texts, one below the other; a .npz file also which text
    each belongs to, where it stands there and what it says.

    Examples:

      gpt2rt embed "He deposited his money in this bank"
      "His soldiers were arrayed along the river bank" --word bank --cosine

      gpt2rt embed "A small boat" "A little ship" --pooling weighted --cosine

      gpt2rt embed --file sentences.txt --lines --by text --output vectors.npy

      gpt2rt embed --file corpus.parquet --output vectors.parquet

      gpt2rt embed --file corpus/ --output vectors.parquet/ --ray --actors 4
    """
    corpus_options.check_part_rows(part_rows, output)
    whole = None if output is None or Path(output).suffix not in FORMATS else Path(output)
    many = output is not None and whole is None
    cluster = corpus_options.elsewhere(ray, actors, output if many else None)
    usual = VectorUnit.TEXT if similarity or as_json or output else VectorUnit.TOKEN
    unit = by or (VectorUnit.WORD if word else usual)
    params = EmbedParams(
        layer,
        unit.value,
        pooling.value,
        word and typed.typed(word, escape),
        normalize,
        stride,
        special,
    )
    loading = opening.loading(threads)
    if output is not None and whole is None:
        if text or as_json or similarity:
            raise InvalidSetting(
                f"{output}: TEXT, --json and --cosine want a file that ends in {', '.join(FORMATS)}"
            )
        from gpt2rt.cli.commands import corpora  # only here, since its imports take a while

        place, corpus = Destination.of(output), corpora.corpus_of(file, lines, column)
        corpora.work(EmbedJob(params), corpus, place, model, loading, part_rows, cluster)
        return
    if whole is not None and as_json and not similarity:
        raise InvalidSetting(f"{output}: --json goes without it")
    result_files.check(whole)
    given = texts.GivenTexts.of(text, file, lines, escape, column)
    if as_json and not similarity:
        records.show(EmbedJob(params), opening.load(model, loading), given)
        return
    rows = given.read()
    gpt2 = opening.load(model, loading)
    bar = tables.Bar("Embed", lambda: len(rows), printed=False)
    results: list[Result] = []
    with bar:
        found = gpt2.embed_batch((str(row.text) for row in rows), params)
        for row, embedding in zip(rows, found, strict=True):
            bar.advance(1)
            results.append((row, embedding))
    if whole is not None:
        result_files.write(whole, FORMATS[whole.suffix](results))
        print(f"gpt2rt: wrote {whole}", file=sys.stderr)
    if similarity:
        _similarities(results, as_json)
    else:
        if whole is None:
            _table(results)
        print(_summary(results))


# ---- files


def _npy(results: list[Result]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.concatenate([embedding.vectors for _, embedding in results]))
    return file.getvalue()


def _npz(results: list[Result]) -> bytes:
    embeddings = [embedding for _, embedding in results]
    spans = np.array([span for e in embeddings for span in e.spans], np.int64).reshape(-1, 2)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        vectors=np.concatenate([e.vectors for e in embeddings]),
        text=np.repeat(np.arange(len(embeddings)), [len(e.spans) for e in embeddings]),
        start=spans[:, 0],
        end=spans[:, 1],
        piece=np.array([text for e in embeddings for text in e.texts], np.str_),
        texts=np.array([e.text for e in embeddings], np.str_),
    )
    return file.getvalue()


FORMATS: dict[str, Callable[[list[Result]], bytes]] = {".npy": _npy, ".npz": _npz}

# ---- tables


def _similarities(results: list[Result], as_json: bool) -> None:
    from rich.table import Table

    places = [
        (_excerpt(embedding, span), vector)
        for _, embedding in results
        for span, vector in zip(embedding.spans, embedding.vectors, strict=True)
    ]
    if len(places) < 2:
        raise InvalidSetting(f"--cosine compares two vectors or more, and there is {len(places)}")
    table = Table(box=None, pad_edge=False)
    for title in ("cosine", "of", "and"):
        table.add_column(title, justify="right" if title == "cosine" else "left")
    for (a, u), (b, v) in combinations(places, 2):
        if as_json:
            print_json({"cosine": cosine(u, v), "a": a, "b": b})
        table.add_row(f"{cosine(u, v):.4f}", tables.quoted(a), tables.quoted(b))
    if not as_json:
        tables.show(table)


def _excerpt(embedding: Embedding, span: tuple[int, int]) -> str:
    """What a vector belongs to, in its text."""
    start, end = span
    if span == (0, len(embedding.text)):
        return embedding.text if len(embedding.text) <= 60 else f"{embedding.text[:59]}…"
    before, after = embedding.text[:start], embedding.text[end:]
    if len(before) > AROUND:
        before = "…" + before[-AROUND:].partition(" ")[2]
    if len(after) > AROUND:
        after = after[:AROUND].rpartition(" ")[0] + "…"
    return f"{before}[{embedding.text[start:end]}]{after}"


def _table(results: list[Result]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("text", "of", "from", "to", "length", "vector"):
        table.add_column(title, justify="left" if title in ("text", "of", "vector") else "right")
    for row, embedding in results:
        pieces = zip(embedding.texts, embedding.spans, embedding.vectors, strict=True)
        for text, (start, end), vector in pieces:
            numbers = " ".join(f"{value:8.3f}" for value in vector[:4])
            length = f"{float(np.linalg.norm(vector)):.3f}"
            of = tables.quoted(text[:40])
            table.add_row(row.place, of, str(start), str(end), length, f"{numbers} …")
    tables.show(table)
    print()


def _summary(results: list[Result]) -> str:
    count = sum(len(embedding.vectors) for _, embedding in results)
    layer, width = results[0][1].layer, results[0][1].vectors.shape[1]
    return f"{count} vectors of {width} numbers, layer {layer}"
