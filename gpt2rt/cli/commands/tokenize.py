"""`gpt2rt tokenize`: texts as token ids."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gpt2rt.cli.input import corpus_options, fetch, opening, options, texts, typed
from gpt2rt.cli.input.ray_option import Ray
from gpt2rt.cli.output import records
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.tokenize_job import TokenizeJob
from gpt2rt.errors import InvalidSetting


def tokenize(
    text: texts.Texts = None,
    model: options.Model = None,
    file: texts.Files = None,
    lines: texts.Lines = False,
    column: texts.Column = None,
    escape: typed.Escape = True,
    special: options.Special = None,
    by: Annotated[
        Literal["text", "token"] | None,
        typer.Option(
            help="A record of --json or --output: all tokens of a text, or one of them with its "
            "text and characters.",
            show_default="text",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a record.")] = False,
    output: corpus_options.OutputFiles = None,
    part_rows: corpus_options.PartRows = None,
    ray: Ray = None,
    actors: corpus_options.Actors = None,
) -> None:
    """The tokens of TEXT: a line of ids for each text.

    Examples:

      gpt2rt tokenize "Once upon a time"

      gpt2rt tokenize "Once upon a time" --by token --json

      gpt2rt tokenize --file corpus.parquet --column text --output tokens.parquet

      gpt2rt tokenize --file corpus/ --output tokens.parquet/ --ray
    """
    corpus_options.check_part_rows(part_rows, output)
    cluster = corpus_options.elsewhere(ray, actors, output)
    job = TokenizeJob(special, by or "text")
    if output is not None:
        if text or as_json:
            raise InvalidSetting("--output is for --file; TEXT and --json are for the screen")
        from gpt2rt.cli.commands import corpora  # only here, since its imports take a while

        place, corpus = Destination.of(output), corpora.corpus_of(file, lines, column)
        corpora.work(job, corpus, place, model, Loading(provider="cpu"), part_rows, cluster)
        return
    if by is not None and not as_json:
        raise InvalidSetting("--by is for --json and --output")
    given = texts.GivenTexts.of(text, file, lines, escape, column)
    bundle = fetch.find(model)
    tokenizer = job.load(bundle, Loading())
    if model is None:
        opening.tell_of(bundle)
    records.show(job, tokenizer, given, records.JSONL if as_json else "txt")
