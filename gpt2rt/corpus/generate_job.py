"""Every prompt of a corpus continued."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import ClassVar

from gpt2rt.corpus.jobs import Job, Kind, Record, RowResult
from gpt2rt.corpus.rows import TextRow
from gpt2rt.errors import OutOfMemory, StepFailed
from gpt2rt.generation.completion import Completion
from gpt2rt.generation.request import Request
from gpt2rt.model import GPT2
from gpt2rt.runs import Run

STATISTICS = "cached_tokens", "drafted", "accepted", "timing"  # not the same every time


@dataclass(frozen=True, slots=True)
class GenerateJob(Job):
    """The samples of a run, of every prompt in place of its own.

    The random numbers of a sample depend on the seed, the row's number and the sample's number.

    Attributes:
        logprobs: whether records have the log-probability of every token.
        stats: whether they have what is not the same every time: times, what caches and draft gave.
    """

    run: Run
    logprobs: bool = False
    stats: bool = False

    name: ClassVar[str] = "generate"

    @property
    def line(self) -> str:
        return "text"

    def settings(self) -> Record:
        run = replace(self.run, prompt=None, threads=None, draft=None, batch_size=1)
        return {**asdict(run), "logprobs": self.logprobs}

    def columns(self) -> dict[str, Kind]:
        return {
            "sample_of_line": "int",
            "model": "text",
            "prompt": "any",
            "text": "text",
            "prompt_tokens": "ints",
            "tokens": "ints",
            "logprobs": "floats",
            "finish_reason": "text",
            "stopped_by": "any",
            "seed": "int",
            "sample": "int",
        }

    def results(self, model: GPT2, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        for row, completions, faults in self.completions(model, rows):
            records = [
                self.record(model, nth, completion)
                for nth, completion in sorted(completions.items())
            ]
            yield RowResult(row, tuple(records), tuple(faults))

    def record(self, model: GPT2, nth: int, completion: Completion) -> Record:
        """The record of the `nth` sample of a row; a beam's has its score."""
        body = asdict(completion)
        stats = {name: body.pop(name) for name in STATISTICS}
        if completion.score is None:
            del body["score"]
        found = {"sample_of_line": nth, "model": model.name, **body}
        if self.stats:
            timing = {name: round(value, 3) for name, value in stats.pop("timing").items()}
            cache = None if model.prefixes is None else asdict(model.prefixes.statistics)
            found["stats"] = {**stats, "prefix_cache": cache, "timing": timing}
        return found

    def completions(
        self, model: GPT2, rows: Iterable[TextRow]
    ) -> Iterator[tuple[TextRow, dict[int, Completion], list[str]]]:
        """Every row with its completions, by the number of the sample, and what went wrong."""
        run, most = self.run, self.run.batch_size
        taken: dict[int, tuple[TextRow, dict[int, Completion], list[str]]] = {}
        one = Request(None, run.params, run.stopping, run.constraint, run.truncate)
        one = replace(one, logprobs=self.logprobs, special=run.special)
        (checked,) = model.tasks.read([one])
        model.tasks.begin(checked)  # raises for what would fail with every prompt

        def requests() -> Iterator[Request]:
            for row in rows:
                taken[row.number] = row, {}, []
                for nth in range(run.nsamples):
                    sample = (row.number - 1) * run.nsamples + nth
                    yield replace(one, prompt=row.text, sample=sample)

        due = requests()
        first = list(islice(due, most))  # fewer take less memory
        for piece in model.run(chain(first, due), batch_size=max(1, len(first))):
            if not piece.last:
                continue
            if isinstance(piece.failure, StepFailed | OutOfMemory):
                raise piece.failure
            number, nth = divmod(piece.sample, run.nsamples)
            _, made, faults = taken[number + 1]
            if piece.completion is not None:
                made[nth] = piece.completion
            else:
                faults.append(str(piece.failure))
            if len(made) + len(faults) == run.nsamples:
                yield taken.pop(number + 1)
