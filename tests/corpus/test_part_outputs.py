"""The output of a corpus: made once, whatever is missing of it, and never over something else."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from backwards import WORDS, Backwards
from gpt2rt import GPT2
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.local import made
from gpt2rt.corpus.output import Output
from gpt2rt.corpus.part import cut
from gpt2rt.errors import BadData, InvalidSetting


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


def begun(
    tmp_path: Path, corpus: Corpus, gpt2: GPT2, name: str, stop: int | None
) -> tuple[Path, Path, list[Path]]:
    """A whole output, one of `stop` parts, and where both have their parts."""
    places = tmp_path / f"whole-{name}", tmp_path / name
    run(places[0], corpus, gpt2)
    run(places[1], corpus, gpt2, stop=stop)
    return *places, [at if name == "out" else Path(f"{at}.parts") for at in places]


def same_rejects(directories: list[Path]) -> bytes:
    """The rejects that both outputs have."""
    found = [(at / "_rejects.jsonl").read_bytes() for at in directories]
    assert found[0] == found[1] != b""
    return found[0]


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
def test_rejects_that_are_gone_are_made_again(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, name: str, stop: int | None
) -> None:
    whole, place, directories = begun(tmp_path, texts, gpt2, name, stop)
    for rejects in directories[1].glob("_rejects*"):
        rejects.unlink()
    run(place, texts, gpt2)
    same_rejects(directories)
    if name == "out.jsonl":
        assert place.read_bytes() == whole.read_bytes()
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


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
@pytest.mark.parametrize("stop", [3, None])
def test_rejects_that_were_changed_are_found(
    tmp_path: Path, texts: Corpus, gpt2: GPT2, name: str, stop: int | None
) -> None:
    """Those of a part while parts are made, and those of all."""
    _, place, directories = begun(tmp_path, texts, gpt2, name, stop)
    changed = min(directories[1].glob("_rejects*"))
    changed.write_bytes(changed.read_bytes().replace(b"not JSON", b"NOT JSON"))
    for _ in range(2):
        with pytest.raises(BadData, match=f"{changed.name}: was changed since; remove it"):
            run(place, texts, gpt2)
    changed.unlink()
    run(place, texts, gpt2)
    rejects = same_rejects(directories)
    end = json.loads((directories[1] / "_manifest.jsonl").read_bytes().splitlines()[-1])
    assert end["rejects_sha256"] == hashlib.sha256(rejects).hexdigest()


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
