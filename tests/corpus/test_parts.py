"""Parts and their parts: the same bytes however a corpus is cut, and whoever works on it."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.embed_job import EmbedJob
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.jobs import Job, Kind, Record, RowResult, attempted
from gpt2rt.corpus.layout import Layout
from gpt2rt.corpus.local import made
from gpt2rt.corpus.output import Output
from gpt2rt.corpus.part import CorpusPart, cut
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.score_job import ScoreJob
from gpt2rt.corpus.score_records import Unit
from gpt2rt.corpus.tables import Table
from gpt2rt.corpus.tokenize_job import TokenizeJob
from gpt2rt.errors import BadData, BadText, InvalidSetting
from gpt2rt.runs import Run

WORDS = ["the cat", "a", "né 👋", "over the hill and far away", "zz top"]


def rows(count: int, documents: int = 1) -> list[TextRow]:
    """Rows of which every seventh is no text."""
    found = []
    for n in range(count):
        fault = "broken" if n % 7 == 3 else None
        text = None if fault else f"{WORDS[n % 5]} {n}"
        document = f"file 1 {n * documents // count}"
        found.append(TextRow(n + 1, "a.jsonl", n + 1, text, {"id": n}, document, fault))
    return found


@dataclass(frozen=True)
class Backwards(Job):
    """Turns texts round, in an order of its own."""

    ahead: int = 5
    name: ClassVar[str] = "backwards"

    def settings(self) -> Record:
        return {}

    def columns(self) -> dict[str, Kind]:
        return {"back": "text"}

    def results(self, model: Any, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        held: list[TextRow] = []
        rng = Random(self.ahead)
        for row in rows:
            held.append(row)
            if len(held) == self.ahead:
                yield self._result(held.pop(rng.randrange(len(held))))
        while held:
            yield self._result(held.pop(rng.randrange(len(held))))

    def _result(self, row: TextRow) -> RowResult:
        return RowResult(row, ({"back": str(row.text)[::-1]},))


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


# ---- outputs


@pytest.fixture
def texts(tmp_path: Path) -> Corpus:
    path = tmp_path / "texts.jsonl"
    lines = [
        f'{{"text": "{WORDS[n % 5]} {n}", "id": {n}}}' if n % 7 != 3 else "{" for n in range(30)
    ]
    path.write_text("\n".join(lines))
    return Corpus.of([str(path)])


def run(
    place: Path, corpus: Corpus, gpt2: GPT2, stop: int | None = None, size: int = 4
) -> list[int]:
    """The parts that were made, at most `stop`; then the run is as if it was killed."""
    job = Backwards()
    name = f"{place}/" if not place.suffix else str(place)
    with Output(Destination.of(name), job, gpt2.bundle, corpus, size) as output:
        found = []
        for part in made(job, None, output.remaining().of(cut(corpus.rows(), size)), output.layout):
            output.add(part)
            found.append(part.part)
            if len(found) == stop:
                return found
        output.finish()
    return found


def content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.is_file()}


def test_a_directory_is_made_once_whatever_is_missing_of_it(
    tmp_path: Path, texts: Corpus, gpt2: GPT2
) -> None:
    """Rejects come back, too, though they were joined."""
    whole, place = tmp_path / "whole", tmp_path / "out"
    assert len(run(whole, texts, gpt2)) == 8
    assert "_rejects.jsonl" in content(whole)
    assert not list(whole.glob("_rejects-*"))
    assert len(run(place, texts, gpt2, stop=3)) == 3
    assert len(run(place, texts, gpt2)) == 5
    assert run(place, texts, gpt2) == []
    for number in (0, 5, 7):
        (place / f"part-{number:08d}.jsonl").unlink()
    assert sorted(run(place, texts, gpt2)) == [0, 5, 7]
    manifests = "_manifest.jsonl"
    assert {n: d for n, d in content(place).items() if n != manifests} == {
        n: d for n, d in content(whole).items() if n != manifests
    }
    assert run(place, texts, gpt2) == []


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
@pytest.mark.parametrize("stop", [3, None])
def test_a_byte_that_was_changed_is_found(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, name: str, stop: int | None
) -> None:
    """By its hash, where the size is the same; no part or file of it becomes a result."""
    place = tmp_path / name
    run(place, texts, gpt2, stop=stop)
    part = "part-00000001.jsonl"
    changed = {
        ("out", 3): place / part,
        ("out", None): place / part,
        ("out.jsonl", 3): tmp_path / "out.jsonl.parts" / part,
        ("out.jsonl", None): place,
    }[name, stop]
    data = changed.read_bytes()
    changed.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(BadData, match=f"{changed.name}: was changed since; remove it"):
        run(place, texts, gpt2)
    changed.unlink()
    run(place, texts, gpt2)
    assert (changed if changed.exists() else place).read_bytes() == data or name == "out.jsonl"


def test_a_run_that_was_killed_while_it_ended_ends_as_others(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there and the manifest does not say so yet; or parts are left behind."""
    whole, place = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run(whole, texts, gpt2)
    with monkeypatch.context() as patch:
        patch.setattr("gpt2rt.corpus.ledger.Ledger.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(place, texts, gpt2)
    assert place.read_bytes() == whole.read_bytes()
    assert run(place, texts, gpt2) == []
    assert place.read_bytes() == whole.read_bytes()
    left = tmp_path / "out.jsonl.parts" / "part-00000003.jsonl"
    left.write_bytes(b"left")
    assert run(place, texts, gpt2) == []
    assert not left.exists()


def test_what_came_meanwhile_is_not_written_over(tmp_path: Path, texts: Corpus, gpt2: GPT2) -> None:
    place = tmp_path / "out.jsonl"
    run(place, texts, gpt2, stop=2)
    place.write_text("precious")
    with pytest.raises(InvalidSetting, match="meanwhile"):
        run(place, texts, gpt2)
    assert place.read_text() == "precious"


def test_a_part_that_was_changed_is_told(tmp_path: Path, texts: Corpus, gpt2: GPT2) -> None:
    place = tmp_path / "out"
    run(place, texts, gpt2, stop=3)
    part = place / "part-00000001.jsonl"
    part.write_bytes(part.read_bytes() + b"\n")
    with pytest.raises(BadData, match="was changed"):
        run(place, texts, gpt2)


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_other_texts_are_told_and_nothing_is_touched(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, name: str
) -> None:
    place, source = tmp_path / name, Path(texts.files[0].path)
    lines = source.read_bytes().splitlines(keepends=True)
    run(place, texts, gpt2)
    parts_place = place if name == "out" else tmp_path / "out.jsonl.parts"
    before = content(parts_place)
    for other in (lines[:-1], [*lines, b'\n"more"'], [*lines, b"\n", *lines], lines[:8]):
        source.write_bytes(b"".join(other))
        with pytest.raises(InvalidSetting, match=r"other texts|no longer has"):
            run(place, texts, gpt2)
        assert content(parts_place) == before
    with pytest.raises(InvalidSetting, match="part_rows 4, now 5"):
        run(place, texts, gpt2, size=5)


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_parts_joined_are_what_one_part_would_be(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, form: str, compression: str
) -> None:
    if compression == ".zst":
        pytest.importorskip("pyarrow")
    one, many = tmp_path / f"one.{form}{compression}", tmp_path / f"many.{form}{compression}"
    run(one, texts, gpt2, size=100)
    run(many, texts, gpt2, size=3)
    assert one.read_bytes() == many.read_bytes()
    if compression == ".gz":
        run(tmp_path / f"plain.{form}", texts, gpt2)
        assert gzip.decompress(one.read_bytes()) == (tmp_path / f"plain.{form}").read_bytes()


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("out.doc", "ends in .txt, .jsonl"),
        ("out.parquet.gz", "compressed by itself"),
        ("out.txt", "no text"),
    ],
)
def test_forms_that_there_are_not(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, name: str, fact: str
) -> None:
    with pytest.raises(InvalidSetting, match=fact):
        run(tmp_path / name, texts, gpt2)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
