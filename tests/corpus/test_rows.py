"""Rows of files: the same texts and columns whatever the form, and what is wrong with some."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.streams import BytesRead
from gpt2rt.errors import BadData, BadText, InvalidSetting, MissingExtra

TEXTS = ["the cat", 'says "no", né 👋\r\nand\tgoes', " x ", "the cat"]


def zstd(data: bytes) -> bytes:
    pa = pytest.importorskip("pyarrow")
    return bytes(pa.compress(data, "zstd", asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def jsonl(texts: list[str]) -> bytes:
    rows = ({"id": n, "text": text} for n, text in enumerate(texts))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(texts: list[str], delimiter: str) -> bytes:
    held = io.StringIO(newline="")
    writer = csv.writer(held, delimiter=delimiter)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    return held.getvalue().encode()


def parquet(texts: list[str]) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    held = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), held)
    return held.getvalue()


FORMS: dict[str, Callable[[list[str]], bytes]] = {
    ".jsonl": jsonl,
    ".csv": lambda texts: separated(texts, ","),
    ".tsv": lambda texts: separated(texts, "\t"),
    ".parquet": parquet,
}


def rows(*paths: Path | str, **settings: Any) -> list[TextRow]:
    return list(Corpus.of([str(path) for path in paths], **settings).rows())


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, form: str, compression: str) -> None:
    if form == ".parquet":
        compression = ""
    path = tmp_path / f"texts{form}{compression}"
    path.write_bytes(COMPRESS[compression](FORMS[form](TEXTS)))
    found = rows(path)
    assert [row.text for row in found] == TEXTS
    assert [row.number for row in found] == [1, 2, 3, 4]
    assert [str(row.columns["id"]) for row in found] == ["0", "1", "2", "3"]
    assert {row.source for row in found} == {str(path)}
    assert all(row.fault is None for row in found)
    lines = {".jsonl": [1, 2, 3, 4], ".parquet": [1, 2, 3, 4]}
    assert [row.line for row in found] == lines.get(form, [2, 4, 5, 6])


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1))
def test_any_text_comes_out_of_a_table_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "t.csv"
    held = io.StringIO(newline="")
    writer = csv.writer(held, quoting=csv.QUOTE_ALL)
    writer.writerows([["text"], *([text] for text in texts)])
    path.write_bytes(held.getvalue().encode())
    assert [row.text for row in rows(path)] == texts


def test_lines_are_rows_and_blank_ones_count(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo")
    (tmp_path / "b.txt").write_text("three\n\n")
    (tmp_path / "c").write_text("four\n")
    found = rows(tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c")
    assert [(row.number, row.line, row.text) for row in found] == [
        (1, 1, "one"),
        (4, 4, "two"),
        (5, 1, "three"),
        (7, 1, "four"),
    ]
    assert [row.text for row in rows(tmp_path / "a.txt", plain="whole")] == ["one\r\n\n  \ntwo"]


def test_directories_and_globs_are_their_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "deep/c.jsonl", "_manifest.jsonl", ".d.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FORMS[".csv" if name == "a.csv" else ".jsonl"]([name]))
    (tmp_path / "_old").mkdir()
    (tmp_path / "_old" / "x.jsonl").write_text('"x"')
    assert [row.text for row in rows(tmp_path)] == ["a.csv", "b.jsonl", "deep/c.jsonl"]
    assert [row.text for row in rows(tmp_path / "*.jsonl")] == ["b.jsonl"]
    assert [row.text for row in rows(tmp_path / "**" / "*.jsonl")] == ["b.jsonl", "deep/c.jsonl"]
    odd = tmp_path / "[1].txt"
    odd.write_text("a name is no glob where there is such a file")
    assert len(rows(odd)) == 1
    with pytest.raises(BadData, match="No file fits"):
        rows(tmp_path / "*.nothing")
    with pytest.raises(BadData, match="No such file"):
        rows(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="has no file that ends in"):
        rows(tmp_path / "empty")


def faults(path: Path, **settings: Any) -> list[tuple[int | None, str]]:
    return [(row.line, row.fault) for row in rows(path, **settings) if row.fault is not None]


def test_lines_of_json_that_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = [b"{", b"3", b'{"a": 1}', b'{"text": 3}', b'{"text": null}', b'"\xff"', b"[" * 100_000]
    path.write_bytes(b"\n".join([b'"good"', *bad, b'{"text": "good"}']))
    found = rows(path)
    assert [row.text for row in found if row.fault is None] == ["good", "good"]
    assert [line for line, _ in faults(path)] == [2, 3, 4, 5, 6, 7, 8]
    assert "it has 'a'" in faults(path)[2][1]
    prompts = rows(path, usual="text", column="text")
    assert [row.number for row in prompts] == list(range(1, 10))


def test_prompts_may_be_ids_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    given = [None, [1, 2], "a", [True], ["a"], 1.5]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in given))
    found = rows(path, usual="prompt")
    assert [row.text for row in found if row.fault is None] == [None, (1, 2), "a"]
    assert [line for line, _ in faults(path, usual="prompt")] == [4, 5, 6]


def test_rows_of_a_table_that_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,good\n2\n3,"a"b\n4,\xff\n5,good\n\n6,a,b\n7,good\n8,"open')
    assert [row.text for row in rows(path) if row.fault is None] == ["good"] * 3
    assert [line for line, _ in faults(path)] == [3, 4, 5, 8, 10]


def test_parquet_keeps_what_a_row_has(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    text = pa.chunked_array([pa.array(["good", None]), bad, pa.array(["good"])])
    pq.write_table(pa.table({"text": text, "list": [[1], [], None, [2]]}), path)
    found = rows(path)
    assert [(row.line, row.text, row.columns) for row in found if row.fault is None] == [
        (1, "good", {"list": [1]}),
        (4, "good", {"list": [2]}),
    ]
    assert [line for line, _ in faults(path)] == [2, 3]


def test_a_quote_that_is_never_closed_is_named_with_the_lines_it_hides(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,id\ngood,1\n"unclosed,2\nhidden,3\nhidden,4\n')
    assert [row.text for row in rows(path) if row.fault is None] == ["good"]
    [(line, fault)] = faults(path)
    assert line == 3
    assert "hides the lines up to 5" in fault


@pytest.mark.parametrize(
    ("name", "data", "fact"),
    [
        ("a.csv", b"a,b\n1,2\n", "'text' among them; it has 'a', 'b'"),
        ("a.csv", b"", "it has nothing"),
        ("a.csv", b"text,text\n1,2\n", "every column once"),
        ("a.csv", b"text,\xff\n1,2\n", "the first line is not UTF-8"),
        ("a.tsv", b'"text\n', "no table"),
        ("a.parquet", b"PAR1 and nothing else", "no Parquet file"),
        ("a.parquet", b"", "no Parquet file"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'"a"\n' * 99, mtime=0)[:-9],
            "a.jsonl.gz: Compressed file ended",
        ),
        ("a.jsonl.xz", b"no xz", "a.jsonl.xz: Input format not supported"),
        ("a.jsonl.bz2", b"no bzip2", "a.jsonl.bz2: Invalid data"),
        ("a.jsonl.zst", b"no zstd", "a.jsonl.zst: ZSTD"),
        ("a.txt", b"\xff\xfea\0", "a.txt is UTF-16"),
    ],
)
def test_files_that_are_none_of_their_form(
    tmp_path: Path, name: str, data: bytes, fact: str
) -> None:
    if name.endswith(("parquet", "zst")):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(data)
    with pytest.raises((BadData, BadText)) as error:
        rows(tmp_path / name)
    assert fact in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r"gpt2rt\[files\]"):
        rows(tmp_path / name)
    for plain in (".csv", ".jsonl"):
        (tmp_path / f"b{plain}.gz").write_bytes(gzip.compress(FORMS[plain](TEXTS)))
        assert len(rows(tmp_path / f"b{plain}.gz")) == len(TEXTS)


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """A corpus of any size takes the memory of a few rows."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'"some words of a text"\n' * 100_000)
    meter = BytesRead()
    found = Corpus.of([str(path)]).rows(meter)
    assert [next(found).number for _ in range(3)] == [1, 2, 3]
    assert meter.count < 200_000
    assert sum(1 for _ in found) == 99_997
    assert meter.count == path.stat().st_size


def test_documents_are_files_or_rows_with_one_item(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item,text\n1,a\n1,b\n2,c\n1,d\n")
    (tmp_path / "b.txt").write_text("e\nf\n")
    found = [row.document for row in rows(tmp_path / "a.csv", tmp_path / "b.txt")]
    assert [a == b for a, b in pairwise(found)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_column_is_of_tables(tmp_path: Path) -> None:
    """A name that tells no form is a table of tabs then; one that tells of text is refused."""
    for name in ("a.txt", "b", "c.items"):
        (tmp_path / name).write_text("id\twords\n1\tthe cat\n")
    for name in ("b", "c.items"):
        assert [row.text for row in rows(tmp_path / name, column="words")] == ["the cat"]
    with pytest.raises(InvalidSetting, match=r"a\.txt: text has no column 'words'; .*\.tsv or"):
        rows(tmp_path / "a.txt", column="words")
