"""`gpt2rt generate --file`: the prompts of files, continued."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt2rt import GPT2
from gpt2rt.cli.commands import corpora
from gpt2rt.cli.input import opening, typed
from gpt2rt.cli.input.corpus_options import Elsewhere
from gpt2rt.cli.output import records
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.ledger import earlier_job
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.rows import TextRow
from gpt2rt.runs import Run


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """Files of prompts, as `Corpus.of` takes them, and the column that has the prompts."""

    files: list[str]
    column: str | None

    def corpus(self) -> Corpus:
        """The prompts. Raises `BadData`, `InvalidSetting`."""
        return Corpus.of(self.files, column=self.column, usual="prompt")

    def show(
        self, run: Run, logprobs: bool, stats: bool, model: str | None, loading: Loading
    ) -> None:
        """Print the records of all samples, as `records.show`."""
        job, corpus = GenerateJob(run, logprobs, stats), self.corpus()
        records.show(job, opening.load(model, loading), corpus, watch=_hinted)

    def write(
        self,
        run: Run,
        seed: int | None,
        logprobs: bool,
        output: str,
        model: str | None,
        loading: Loading,
        part_rows: int,
        cluster: Elsewhere | None,
    ) -> None:
        """Write the records of all samples, as `corpora.work`; `seed` is the one asked for."""
        place = Destination.of(output)
        job = GenerateJob(_with_seed(run, seed, place), logprobs)
        corpora.work(job, self.corpus(), place, model, loading, part_rows, cluster, _hinted)


def _with_seed(run: Run, seed: int | None, place: Destination) -> Run:
    """The run with the seed of an earlier one where none is given: samples go on as they began."""
    earlier = earlier_job(place)
    if seed is not None or earlier is None or earlier.get("job") != GenerateJob.name:
        return run
    return replace(run, params=replace(run.params, seed=earlier["settings"]["params"]["seed"]))


def _hinted(gpt2: GPT2, rows: Iterator[TextRow]) -> Iterator[TextRow]:
    """The rows; says once that a prompt ends in a space."""
    told = False
    for row in rows:
        if not told and isinstance(row.text, str):
            told = typed.hint_at_space(gpt2.tokenizer, [row.text])
        yield row
