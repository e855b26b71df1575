"""`gpt2rt tokenize`: texts as token ids."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2rt.cli import corpora, opening, options, texts, typed
from gpt2rt.cli.printing import print_json
from gpt2rt.cli.ray_option import Ray
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.jobs import Loading
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON a text, with every token's text.")
    ] = False,
    output: corpora.OutputFiles = None,
    shard_rows: corpora.ShardRows = None,
    ray: Ray = None,
    actors: corpora.Actors = None,
) -> None:
    """The tokens of TEXT: a line of ids for each text.

    Examples:

      gpt2rt tokenize "Once upon a time"

      gpt2rt tokenize "Once upon a time" --json

      gpt2rt tokenize --file corpus.parquet --column text --output tokens.parquet

      gpt2rt tokenize --file corpus/ --output tokens.parquet/ --ray
    """
    corpora.check_shard_rows(shard_rows, output)
    cluster = corpora.elsewhere(ray, actors, model, output)
    bundle = opening.bundle_of(model)
    job = TokenizeJob(special)
    if output is not None:
        if text or as_json:
            raise InvalidSetting("--output is for --file; TEXT and --json are for the screen")
        place = Destination.of(output)
        corpus = corpora.corpus_of(file, lines, column)
        corpora.work(job, corpus, place, bundle, Loading(provider="cpu"), shard_rows, cluster)
        return
    sources = texts.read(text, file, lines, escape, column)
    tokenizer = job.load(bundle, Loading())
    for source in sources:
        found = tokenizer.encode_spans(source.text, special=special)
        if as_json:
            pieces = [tokenizer.decode([token]) for token in found.tokens]
            spans = [list(span) for span in found.spans]
            body = {"source": source.name, "text": source.text, "tokens": list(found.tokens)}
            print_json({**body, "texts": pieces, "spans": spans})
        else:
            print(*found.tokens)
