"""`gpt2rt generate --file`: the prompts of files, continued."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from gpt2rt import GPT2, Bundle, Completion
from gpt2rt.cli import typed
from gpt2rt.cli.corpora import Elsewhere, tell_fault, usable, work
from gpt2rt.cli.printing import print_json, record
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.jobs import Loading
from gpt2rt.corpus.ledger import earlier_job
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.values import nested
from gpt2rt.runs import Run

SHARD_ROWS = 100  # a row takes longer than one that is scored


def with_seed(run: Run, seed: int | None, place: Destination) -> Run:
    """The run with the seed of an earlier one where none is given: samples go on as they began."""
    earlier = earlier_job(place)
    if seed is not None or earlier is None or earlier.get("job") != GenerateJob.name:
        return run
    return replace(run, params=replace(run.params, seed=earlier["settings"]["params"]["seed"]))


def generate_to(
    place: Destination,
    job: GenerateJob,
    corpus: Corpus,
    bundle: Bundle,
    loading: Loading,
    shard_rows: int | None,
    cluster: Elsewhere | None,
) -> None:
    """The samples of all prompts into files; see `gpt2rt.cli.corpora.work`."""
    work(job, corpus, place, bundle, loading, shard_rows or SHARD_ROWS, cluster, _hinted)


def _hinted(gpt2: GPT2, rows: Iterator[TextRow]) -> Iterator[TextRow]:
    """The rows; says once that a prompt ends in a space."""
    hinted = False
    for row in rows:
        if not hinted and isinstance(row.text, str):
            hinted = typed.hint_at_space(gpt2.tokenizer, [row.text])
        yield row


def print_samples(gpt2: GPT2, job: GenerateJob, corpus: Corpus) -> bool:
    """Print a line of JSON a sample, in the order of the prompts; whether all could be made."""
    order: deque[int] = deque()
    done: dict[int, tuple[TextRow, dict[int, Completion], list[str]]] = {}
    failures = 0

    def failed() -> None:
        nonlocal failures
        failures += 1

    def rows() -> Iterator[TextRow]:
        for row in usable(_hinted(gpt2, corpus.rows()), failed):
            order.append(row.number)
            yield row

    for found in job.completions(gpt2, rows()):
        done[found[0].number] = found
        while order and order[0] in done:
            row, completions, faults = done.pop(order.popleft())
            for nth, completion in sorted(completions.items()):
                body = {"sample_of_line": nth, **record(gpt2, completion)}
                print_json(nested(row, body))
            for fault in faults:
                tell_fault(row.place, fault)
                failed()
    return not failures
