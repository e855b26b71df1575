"""`score`, `embed` and `tokenize` from files to files: as the library does the same texts."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import Command, Ended
from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.corpus.embed_job import EmbedJob
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.score_job import ScoreJob
from gpt2rt.corpus.score_records import Unit
from gpt2rt.corpus.tokenize_job import TokenizeJob
from gpt2rt.runs import Run
from written import TEXTS, lines, table


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "words"], *enumerate(TEXTS)])
    return path


@pytest.mark.parametrize("by", ["text", "word", "token"])
def test_scores_are_those_of_the_library(
    command: Command, model: Path, gpt2: GPT2, texts: Path, sheet: Path, tmp_path: Path, by: str
) -> None:
    scores = [gpt2.score(text, top=1) for text in TEXTS]
    units: Any = {
        "text": [[score] for score in scores],
        "word": [score.words for score in scores],
        "token": [score.tokens for score in scores],
    }[by]
    wanted = [(n, unit.bits) for n, found in enumerate(units) for unit in found]
    top = ("--top", "1") if by == "token" else ()
    options = ("-m", model, "--by", by, *top, "--part-rows", "3")
    output = tmp_path / "out.jsonl"
    assert command("score", "--file", texts, "--output", output, *options).code == 0
    assert [(r["input"]["id"], r["bits"]) for r in lines(output)] == wanted
    assert [r["row"] for r in lines(output)] == [n + 1 for n, _ in wanted]
    for name in ("out.csv", "out.tsv"):
        given = ("--file", sheet, "--column", "words", "--output", tmp_path / name)
        assert command("score", *given, *options).code == 0
        rows = table(tmp_path / name)
        assert [(int(r["id"]), float(r["bits"])) for r in rows] == wanted
        if by == "token":
            assert [r["alternative_1"] for r in rows] == [
                token.alternatives[0].text for score in scores for token in score.tokens
            ]


@pytest.mark.slow
def test_parquet_has_types_and_carries_them(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "text": pa.array(TEXTS, pa.large_string()),
        "when": pa.array([1, None, 3, 4], pa.timestamp("ns")),
        "tags": pa.array([["a"], [], None, ["b", "c"]]),
        "price": pa.array([None, 1, 2, 3], pa.decimal128(5, 2)),
        "raw": pa.array([b"\x00\xff"] * 4),
        "kind": pa.array(["x", "y", "x", None]).dictionary_encode(),
    }
    source = pa.table(columns)
    pq.write_table(source, tmp_path / "in.parquet", row_group_size=3)
    options = ("-m", model, "--file", tmp_path / "in.parquet", "--part-rows", "2")
    assert command("score", *options, "--output", tmp_path / "out.parquet").code == 0
    found = pq.read_table(tmp_path / "out.parquet")
    for name in source.column_names[1:]:
        assert found.schema.field(name).type == source.schema.field(name).type
        assert found[name].combine_chunks().equals(source[name].combine_chunks())
    assert found["bits"].to_pylist() == [gpt2.score(text).bits for text in TEXTS]
    assert command("embed", *options, "--output", f"{tmp_path}/vectors.parquet/").code == 0
    found = pq.read_table(tmp_path / "vectors.parquet")
    params = EmbedParams(by="text")
    vectors = np.array(found["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, [gpt2.embed(text, params).vectors[0] for text in TEXTS])
    assert len(list((tmp_path / "vectors.parquet").glob("part-*"))) == 2
    assert command("tokenize", *options, "--output", tmp_path / "out.csv").code == 0
    rows = table(tmp_path / "out.csv")
    assert [json.loads(row["tokens"]) for row in rows] == [gpt2.tokenizer.encode(t) for t in TEXTS]
    assert [row["when"] for row in rows][1] == ""
    assert [row["tags"] for row in rows] == ['["a"]', "[]", "", '["b", "c"]']


def test_any_end_of_a_sample_goes_into_parquet(
    command: Command, model: Path, tmp_path: Path
) -> None:
    """What stopped a sample is text or a token's id."""
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in.jsonl").write_text('"a"\n{"prompt": [1, 2]}\n')
    options = ("-m", model, "--file", tmp_path / "in.jsonl", "--length", "3", "--seed", "1")
    for stop in ([], [n for token in range(300) for n in ("--stop-token", token)]):
        output = tmp_path / f"{len(stop)}.parquet"
        records = command("generate", *options, *stop, "--json").records
        assert command("generate", *options, *stop, "--output", output).code == 0
        wanted = [r["stopped_by"] for r in records]
        found = pq.read_table(output)
        assert found["prompt"].to_pylist() == ["a", "[1, 2]"]
        assert found["stopped_by"].to_pylist() == [n if n is None else str(n) for n in wanted]
        assert all(isinstance(n, int) for n in wanted) == bool(stop)


def test_json_lines_become_a_column_of_a_table(
    command: Command, model: Path, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    assert command("tokenize", "--file", texts, "--output", output, "-m", model).code == 0
    found = [json.loads(row["input"]) for row in table(output)]
    assert found == [{"id": n, "deep": {"n": [n]}} for n in range(4)]


def test_tokens_are_printed_and_written(
    command: Command, model: Path, gpt2: GPT2, texts: Path, tmp_path: Path
) -> None:
    encoded = [gpt2.tokenizer.encode(text) for text in TEXTS]
    printed = command("tokenize", *TEXTS, "-m", model)
    assert printed.out == "".join(f"{' '.join(map(str, tokens))}\n" for tokens in encoded)
    records = command("tokenize", "--file", texts, "-m", model, "--json").records
    assert [record["tokens"] for record in records] == encoded
    each = command("tokenize", "--file", texts, "-m", model, "--by", "token", "--json").records
    assert [r["token"] for r in each] == [token for tokens in encoded for token in tokens]
    assert [r["text"] for r in each] == [gpt2.tokenizer.decode([r["token"]]) for r in each]
    assert [r["token_number"] for r in each if r["row"] == 2] == [*range(1, len(encoded[1]) + 1)]
    output = tmp_path / "out.txt"
    assert command("tokenize", "--file", texts, "--output", output, "-m", model).code == 0
    assert output.read_text() == printed.out


RECORDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "score": ((), ("--by", "word", "--context", "previous"), ("--by", "token", "--top", "1")),
    "embed": ((), ("--by", "word")),
    "tokenize": ((), ("--by", "token")),
    "generate": (("--seed", "3", "--length", "4", "-n", "2"),),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("given", ["texts.jsonl", "texts.csv", "texts.txt"])
def test_what_is_printed_is_what_is_written(
    command: Command, model: Path, texts: Path, sheet: Path, tmp_path: Path, name: str, given: str
) -> None:
    """A record has one shape, whichever way it goes out."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    place: tuple[str | Path, ...] = ("--file", tmp_path / given, "-m", model)
    column = {"texts.csv": ("--column", "words"), "texts.jsonl": ("--column", "text")}
    place += column.get(given, () if name == "generate" else ("--lines",))
    forms = ("csv", "tsv") if name == "score" else ()
    for number, options in enumerate(RECORDS[name]):
        written = tmp_path / f"{number}.jsonl"
        assert command(name, *place, *options, "--output", written).code == 0
        printed = command(name, *place, *options, "--json")
        assert printed == Ended(0, written.read_text(encoding="utf-8"), "")
        for form in forms:
            written = tmp_path / f"{number}.{form}"
            assert command(name, *place, *options, "--output", written).code == 0
            printed = command(name, *place, *options, "--format", form)
            assert printed.out.encode() == written.read_bytes()


@pytest.mark.parametrize("name", ["generate", "score", "embed"])
def test_a_complete_output_is_found_so_without_the_model(
    command: Command, model: Path, texts: Path, tmp_path: Path, name: str
) -> None:
    place = f"{tmp_path}/out/"
    seed = ("--seed", "3", "--length", "4") if name == "generate" else ()
    given = (name, "--file", texts, "--column", "text", "-m", model, *seed, "--output", place)
    assert command(*given).code == 0
    (part,) = tmp_path.glob("out/part-*")
    before = part.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loading, "load", lambda *_: pytest.fail("the model was loaded"))
        assert command(*given) == Ended(0, "", "")
        assert command(*given, "--ray", "127.0.0.1:1") == Ended(0, "", "")  # nobody is there
        text = texts.read_text()
        texts.write_text(text.replace("sat", "sits"))
        assert "other texts" in command(*given).in_one_line()
    texts.write_text(text)
    part.unlink()
    assert command(*given).code == 0
    assert part.read_bytes() == before


def test_the_page_has_the_fields_of_each_record() -> None:
    page = Path(__file__).parents[2] / "docs" / "corpora.md"
    rows = re.findall(r"^\| `([\w -]+)` \| a .* \| (.*) \|$", page.read_text("utf-8"), re.MULTILINE)
    told = {name: re.findall(r"`([a-z_0-9]+)`", fields) for name, fields in rows}
    run = Run(None, 1, SamplingParams(seed=1), Stopping())
    assert told == {
        "generate": [*GenerateJob(run).columns(), "score"],
        "score": [*ScoreJob().columns()],
        "score --by word": [*ScoreJob(Unit.WORD).columns()],
        "score --by token": [*ScoreJob(Unit.TOKEN, top=1).columns()],
        "embed": [*EmbedJob(EmbedParams()).columns()],
        "tokenize": [*TokenizeJob().columns()],
        "tokenize --by token": [*TokenizeJob(by="token").columns()],
    }


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_an_argument_is_that_of_a_line(
    command: Command, model: Path, tmp_path: Path, name: str
) -> None:
    """But for where it is from."""
    (tmp_path / "a.txt").write_text(TEXTS[0])
    options = ("-m", model, "--json", *RECORDS[name][-1][:4])
    (first, *_) = command(name, "--file", tmp_path / "a.txt", *options).records
    (other, *_) = command(name, TEXTS[0], *options).records
    place = {"source": "prompt" if name == "generate" else "text 1", "line": None}
    assert list(first) == list(other)
    assert {**first, **place} == other


def test_documents_are_scored_as_one_however_they_are_cut(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path
) -> None:
    source = tmp_path / "t.tsv"
    rows = [("1", "the cat"), ("1", "sat down"), ("1", ""), ("1", "."), ("2", "x"), ("1", "y")]
    source.write_text("item\ttext\n" + "".join(f"{item}\t{text}\n" for item, text in rows))
    parts = gpt2.score_document(["the cat", "sat down", "."])
    wanted = [part.bits for part in (*parts, gpt2.score("x"), gpt2.score("y"))]
    given = ("score", "--file", source, "--context", "previous", "-m", model)
    for size in ("1", "3", "100"):
        output = tmp_path / f"{size}.jsonl"
        ended = command(*given, "--part-rows", size, "--output", output)
        assert ended.code == 1
        assert "line 4: the text is empty" in ended.err
        assert [record["bits"] for record in lines(output)] == wanted


@pytest.mark.parametrize("name", ["score", "embed", "tokenize"])
def test_a_text_file_is_a_row_or_its_lines_are(
    command: Command, model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in.txt").write_text("one\n\ntwo\n")
    given = (name, "--file", tmp_path / "in.txt", "-m", model, "--output")
    assert command(*given, tmp_path / "whole.jsonl").code == 0
    assert command(*given, tmp_path / "lines.jsonl", "--lines").code == 0
    assert [r["line"] for r in lines(tmp_path / "whole.jsonl")] == [None]
    assert [r["line"] for r in lines(tmp_path / "lines.jsonl")] == [1, 3]


def test_a_pipe_is_a_corpus_too(command: Command, model: Path, tmp_path: Path) -> None:
    given = ("tokenize", "--file", "-", "--lines", "-m", model, "--output", tmp_path / "o.jsonl")
    assert command(*given, stdin=b"one\ntwo\n").code == 0
    assert command(*given, stdin=b"one\ntwo\n").code == 0
    assert "other texts" in command(*given, stdin=b"one\nthree\n").in_one_line()
    assert [r["source"] for r in lines(tmp_path / "o.jsonl")] == ["standard input"] * 2


def test_plain_commands_import_no_arrow(
    command: Command, model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert command("score", "a", "-m", model).code == 0
    assert command("score", "-f", texts, "-o", tmp_path / "o.csv.gz", "-m", model).code == 0
    ended = command("score", "-f", texts, "-o", tmp_path / "o.parquet", "-m", model)
    assert "gpt2rt[files]" in ended.in_one_line()
