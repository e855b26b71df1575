"""Parts of a corpus: the same bytes however a corpus is cut, and whoever works on it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backwards import Backwards, rows
from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.corpus.embed_job import EmbedJob
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.jobs import Job, RowResult, attempted
from gpt2rt.corpus.layout import Layout
from gpt2rt.corpus.local import made
from gpt2rt.corpus.part import CorpusPart, cut
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.score_job import ScoreJob
from gpt2rt.corpus.score_records import Unit
from gpt2rt.corpus.tables import Table
from gpt2rt.corpus.tokenize_job import TokenizeJob
from gpt2rt.errors import BadText
from gpt2rt.runs import Run


def layout(directory: Path, job: Job, form: str = "jsonl") -> Layout:
    directory.mkdir()
    return Layout(directory, Table(form, job.columns(), None, "", job.line))


def parts(
    place: Layout, found: Iterable[CorpusPart], job: Job, model: Any = None
) -> dict[str, bytes]:
    """The content of all files, by name."""
    done = list(made(job, model, found, place))
    assert sorted(part.part for part in done) == sorted(part.number for part in found)
    return {path.name: path.read_bytes() for path in place.directory.iterdir()}


def jobs(gpt2: GPT2) -> dict[str, tuple[Job, Any]]:
    run = Run(None, 2, SamplingParams(seed=3, temperature=1.3), Stopping(4), batch_size=5)
    return {
        "backwards": (Backwards(), None),
        "generate": (GenerateJob(run), gpt2),
        "score": (ScoreJob(Unit.WORD), gpt2),
        "documents": (ScoreJob(documents=True, stride=16), gpt2),
        "embed": (EmbedJob(EmbedParams(by="text")), gpt2),
        "tokenize": (TokenizeJob(), gpt2.tokenizer),
    }


@pytest.mark.parametrize(
    "name", ["backwards", "generate", "score", "documents", "embed", "tokenize"]
)
def test_a_part_alone_has_the_bytes_that_it_has_among_others(
    tmp_path: Path, gpt2: GPT2, name: str
) -> None:
    """So it does not matter who works on it; jobs and layouts travel to whoever does."""
    job, model = jobs(gpt2)[name]
    found = list(cut(rows(40, documents=9), 6, together=job.together))
    together = parts(layout(tmp_path / "together", job), found, job, model)
    place = layout(tmp_path / "alone", job)
    travelled, place = pickle.loads(pickle.dumps((job, place)))
    assert travelled == job
    shuffled = Random(1).sample(found, len(found))
    for part in shuffled:
        (done,) = made(travelled, model, [pickle.loads(pickle.dumps(part))], place)
        assert done.rows == len(part.rows)
        assert done.rejects == sum(row.fault is not None for row in part.rows)
        assert done.bytes == place.path(part.number).stat().st_size
    assert {p.name: p.read_bytes() for p in place.directory.iterdir()} == together


def test_parts_keep_documents_together() -> None:
    found = list(cut(rows(40, documents=9), 3, together=True))
    ends = [(a.rows[-1], b.rows[0]) for a, b in pairwise(found)]
    assert all(a.document != b.document for a, b in ends)
    assert [row for part in found for row in part.rows] == rows(40, documents=9)
    assert [len(part.rows) for part in cut(rows(40), 12)] == [12, 12, 12, 4]
    assert [part.number for part in cut(rows(40), 12)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [{"text": "x"}, {"number": 9}, {"source": "b"}, {"line": 3}, {"columns": {}}, {"fault": "x"}],
)
def test_the_digest_tells_any_other_row(change: dict[str, Any]) -> None:
    first, *rest = rows(3)
    other = (replace(first, **change), *rest)
    assert CorpusPart(0, (first, *rest)).digest == CorpusPart(1, (first, *rest)).digest
    assert CorpusPart(0, (first, *rest)).digest != CorpusPart(0, other).digest


def test_rows_of_the_next_part_begin_before_a_part_ends(tmp_path: Path) -> None:
    """No batch runs empty at the end of a part."""
    taken: list[int] = []

    class Watched(Backwards):
        def results(self, model: Any, rows: Iterable[TextRow]) -> Iterator[RowResult]:
            def noted() -> Iterator[TextRow]:
                for row in rows:
                    taken.append(row.number)
                    yield row

            return super().results(model, noted())

    texts = [row for row in rows(40) if row.fault is None]
    for part in made(Watched(), None, cut(texts, 5), layout(tmp_path / "a", Backwards())):
        assert len(taken) == len(texts) or len(taken) >= (part.part + 1) * 5 + 1


def test_a_batch_is_as_full_whatever_the_size_of_parts(tmp_path: Path, gpt2: GPT2) -> None:
    run = Run(None, 1, SamplingParams(seed=3), Stopping(20), batch_size=4)
    steps = []
    for size in (1, 7, 100):
        before = gpt2.batch.statistics.steps
        place = layout(tmp_path / str(size), GenerateJob(run))
        parts(place, list(cut(rows(40), size)), GenerateJob(run), gpt2)
        steps.append(gpt2.batch.statistics.steps - before)
    assert steps[0] == steps[1] == steps[2] > 0


def test_a_corpus_of_nothing_but_faults_is_rejects(tmp_path: Path) -> None:
    bad = [replace(row, text=None, fault="broken") for row in rows(9)]
    found = parts(layout(tmp_path / "a", Backwards()), list(cut(bad, 4)), Backwards())
    assert [found[f"part-{n:08d}.jsonl"] for n in range(3)] == [b""] * 3
    lines = [found[f"_rejects-{n:08d}.jsonl"].count(b"\n") for n in range(3)]
    assert lines == [4, 4, 1]


def test_any_number_of_faults_takes_little_memory(tmp_path: Path) -> None:
    read = 0

    def many() -> Iterator[CorpusPart]:
        nonlocal read
        for n in range(500):
            read += 1
            yield CorpusPart(n, (TextRow(n + 1, "a", n + 1, None, {}, "", "broken"),))

    for done, _ in enumerate(made(Backwards(), None, many(), layout(tmp_path / "a", Backwards()))):
        assert read - done <= 16
    assert read == 500


def test_a_unit_that_is_refused_takes_no_other_with_it() -> None:
    """Whether a batch tells at once, or after it has taken others."""

    def batch(units: Iterable[int], ahead: int) -> Iterator[int]:
        held: list[int] = []
        for unit in units:
            if unit % 5 == 0:
                raise BadText(f"no {unit}")
            held.append(unit)
            if len(held) == ahead:
                yield from map(str.__len__, map(str, held))
                held.clear()
        yield from map(str.__len__, map(str, held))

    for ahead in (1, 3, 100):
        found = list(attempted(range(1, 23), lambda units, n=ahead: batch(units, n)))  # type: ignore[misc]
        assert [unit for unit, _, _ in found] == list(range(1, 23))
        for unit, result, fault in found:
            assert (result, fault) == (
                (None, f"no {unit}") if unit % 5 == 0 else (len(str(unit)), "")
            )


def test_what_ends_the_units_is_raised() -> None:
    def units() -> Iterator[int]:
        yield 1
        raise BadText("the file")

    with pytest.raises(BadText, match="the file"):
        list(attempted(units(), lambda found: (unit for unit in found)))
