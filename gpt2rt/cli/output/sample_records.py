"""The samples of one prompt as records, as prompts of files have them."""

from __future__ import annotations

from collections.abc import Iterable

from gpt2rt import GPT2, Piece
from gpt2rt.cli.output.printing import in_turn, print_json
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.values import nested
from gpt2rt.runs import Run


def show(
    pieces: Iterable[Piece], gpt2: GPT2, run: Run, logprobs: bool, stats: bool, source: str
) -> None:
    """Print a line of JSON for each sample, in their order, as soon as it ends.

    `logprobs` and `stats` are those of `GenerateJob`; `source` is where the prompt is from.
    """
    job, row = GenerateJob(run, logprobs, stats), TextRow(1, source, None, None)
    for piece in in_turn(pieces):
        if (done := piece.completion) is not None:
            print_json(nested(row, job.record(gpt2, done.sample, done)))
