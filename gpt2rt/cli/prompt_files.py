"""`gpt2rt generate --file`: what prompts of files want beyond other texts of files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gpt2rt import GPT2
from gpt2rt.cli import typed
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.ledger import earlier_job
from gpt2rt.corpus.rows import TextRow
from gpt2rt.runs import Run


def with_seed(run: Run, seed: int | None, place: Destination) -> Run:
    """The run with the seed of an earlier one where none is given: samples go on as they began."""
    earlier = earlier_job(place)
    if seed is not None or earlier is None or earlier.get("job") != GenerateJob.name:
        return run
    return replace(run, params=replace(run.params, seed=earlier["settings"]["params"]["seed"]))


def hinted(gpt2: GPT2, rows: Iterator[TextRow]) -> Iterator[TextRow]:
    """The rows; says once that a prompt ends in a space."""
    told = False
    for row in rows:
        if not told and isinstance(row.text, str):
            told = typed.hint_at_space(gpt2.tokenizer, [row.text])
        yield row
