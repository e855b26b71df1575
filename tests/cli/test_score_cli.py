"""`gpt2rt score`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from command_line import TEXT, Command
from gpt2rt import GPT2


def test_json_is_a_record_a_text(command: Command, model: Path, gpt2: GPT2) -> None:
    ended = command("score", TEXT, "second", "-m", model, "--json")
    assert (ended.code, ended.err) == (0, "")
    for number, (record, text) in enumerate(zip(ended.records, (TEXT, "second"), strict=True), 1):
        place = {"row": number, "source": f"text {number}", "line": None, "text": text}
        assert record == {**place, **gpt2.score(text).totals}


@pytest.mark.parametrize("by", ["token", "word", "text"])
def test_csv_reads_back(command: Command, model: Path, gpt2: GPT2, by: str) -> None:
    top = ("--top", "2") if by == "token" else ()
    ended = command("score", TEXT, "b", "-m", model, "--csv", "--by", by, *top)
    rows = list(csv.DictReader(io.StringIO(ended.out, newline="")))
    scores = [gpt2.score(text, top=2) for text in (TEXT, "b")]
    if by == "token":
        tokens = [token for score in scores for token in score.tokens]
        assert [row["text"] for row in rows] == [token.text for token in tokens]
        assert [float(row["bits"]) for row in rows] == [token.bits for token in tokens]
        assert [row["alternative_2"] for row in rows] == [t.alternatives[1].text for t in tokens]
    elif by == "word":
        words = [word for score in scores for word in score.words]
        assert [row["text"] for row in rows] == [word.text for word in words]
    else:
        assert [float(row["perplexity"]) for row in rows] == [s.perplexity for s in scores]


def test_tsv_numbers_texts_and_words(command: Command, model: Path, gpt2: GPT2) -> None:
    arguments = ("-m", model, "--format", "tsv", "--by", "word", "--boundary", "trailing")
    ended = command("score", '=one "two"', "three", *arguments)
    rows = list(csv.DictReader(io.StringIO(ended.out, newline=""), delimiter="\t"))
    assert [(row["row"], row["word_number"], row["text"]) for row in rows] == [
        ("1", "1", "=one"),
        ("1", "2", '"two"'),
        ("2", "1", "three"),
    ]
    first = gpt2.score('=one "two"', boundary="trailing")
    assert [float(row["bits"]) for row in rows[:2]] == [word.bits for word in first.words]


TABLE = (
    "item,condition,sentence\r\n"
    '1,"a,b","He said ""no""."\r\n'
    "1,c,NA null =SUM(A1)\r\n"
    "\r\n"
    '7,é,"A\ttab and\na line."\r\n'
    "1,d,'Twas\r\n"
)


def rows_of(out: str, delimiter: str = "\t") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out, newline=""), delimiter=delimiter, strict=True))


@pytest.mark.parametrize("form", ["tsv", "csv"])
def test_a_table_of_sentences_becomes_a_row_a_word(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path, form: str
) -> None:
    table = tmp_path / "items.csv"
    table.write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    arguments = ("--file", table, "--column", "sentence", "--bos", "none", "-m", model)
    ended = command("score", *arguments, "--context", "previous", "--by", "word", "--format", form)
    assert (ended.code, ended.err) == (0, "")
    rows = rows_of(ended.out, "\t" if form == "tsv" else ",")
    documents = [['He said "no".', "NA null =SUM(A1)"], ["A\ttab and\na line."], ["'Twas"]]
    parts = [part for texts in documents for part in gpt2.score_document(texts, bos=None)]
    words = [word for part in parts for word in part.words]
    assert [row["text"] for row in rows] == [word.text for word in words]
    assert [float(row["bits"] or "nan") for row in rows] == pytest.approx(
        [word.bits for word in words], nan_ok=True, abs=0
    )
    assert [row["bits"] == "" for row in rows] == [n in (0, 6, 11) for n in range(len(rows))]
    wanted = [("1", "a,b")] * 3 + [("1", "c")] * 3 + [("7", "é")] * 5 + [("1", "d")]
    assert [(row["item"], row["condition"]) for row in rows] == wanted
    if form == "tsv":
        numbers = [n for part in parts for n in range(1, len(part.words) + 1)]
        assert [int(row["word_number"]) for row in rows] == numbers


def test_rows_without_an_item_are_one_document_a_file(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path
) -> None:
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text('text\tx"y\nthe cat\t1\nsat down\t2\n')
    files = ("--file", tmp_path / "a.tsv", "--file", tmp_path / "b.tsv", "--column", "text")
    ended = command(
        "score", *files, "--context", "previous", "--joint", r"\n", "-m", model, "--json"
    )
    parts = gpt2.score_document(["the cat", "sat down"], joint="\n")
    assert [record["bits"] for record in ended.records] == [p.bits for p in parts] * 2
    assert [record["input"] for record in ended.records] == [{'x"y': "1"}, {'x"y': "2"}] * 2
    alone = command("score", *files, "-m", model, "--by", "word", "--format", "tsv")
    assert [row["row"] for row in rows_of(alone.out)] == list("11223344")
    assert [row['x"y'] for row in rows_of(alone.out)] == list("11221122")


def test_lines_of_a_file_and_the_arguments_are_documents(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("three\n\nfour\n")
    arguments = ("one", "two", "--file", tmp_path / "t.txt", "--lines", "--context", "previous")
    records = command("score", *arguments, "-m", model, "--json").records
    parts = gpt2.score_document(["one", "two"]) + gpt2.score_document(["three", "four"])
    assert [record["bits"] for record in records] == [part.bits for part in parts]
    assert [record["row"] for record in records] == [1, 2, 3, 5]  # a blank line is one, too


@pytest.mark.slow
def test_a_first_token_without_a_score_is_said_everywhere(
    command: Command, model: Path, tmp_path: Path
) -> None:
    arguments = ("score", "the cat", "x", "--bos", "none", "-m", model)
    first, second = command(*arguments, "--json").records
    assert first["scored"] == first["tokens"] - 1
    assert (second["perplexity"], second["scored"]) == (None, 0)
    for by in ("token", "word"):
        assert command(*arguments, "--json", "--by", by).records[0]["bits"] is None
    for by in ("token", "word", "text"):
        ended = command(*arguments, "--by", by)
        assert "first token, which has no score" in ended.out
        assert "nan" not in ended.out
        assert "nan" not in command(*arguments, "--by", by, "--csv").out
    assert "before the context" in command(*arguments, "--context", "a").out
    assert command(*arguments, "--html", tmp_path / "p.html").code == 0
    page = (tmp_path / "p.html").read_text()
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]
    other = command("score", "the cat", "--bos", "7", "-m", model)
    assert "stands before everything" in other.out


def test_table_has_a_row_a_token_and_ends_in_the_totals(
    command: Command, model: Path, gpt2: GPT2
) -> None:
    ended = command("score", TEXT, "-m", model)
    lines = ended.out.splitlines()
    score = gpt2.score(TEXT)
    assert len(lines) == 1 + len(score.tokens) + 2
    assert f"{len(score.tokens)} tokens, {score.bits:,.2f} bits; perplexity" in lines[-1]
    assert "\r" not in ended.out
    by_text = command("score", TEXT, "b", "-m", model, "--by", "text").out.splitlines()
    assert len(by_text) == 3


def test_files_lines_and_standard_input(command: Command, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes("één\r\n\r\n  \ntwo \n".encode())
    whole = command("score", "--file", file, "-m", model, "--json").records
    assert [record["text"] for record in whole] == ["één\r\n\r\n  \ntwo "]
    lines = command("score", "--file", file, "--lines", "-m", model, "--json").records
    assert [record["text"] for record in lines] == ["één", "two "]
    assert [(r["source"], r["line"]) for r in lines] == [(f"{file}", n) for n in (1, 4)]
    lined = command("score", "-", "--lines", "-m", model, "--json", stdin=file.read_bytes())
    assert lined.records == [{**record, "source": "standard input"} for record in lines]
    piped = command("score", "-", "-m", model, "--json", stdin="één\r\n".encode()).records
    assert [(record["source"], record["text"]) for record in piped] == [("standard input", "één")]


def test_context_window_and_stride_are_handed_on(command: Command, model: Path, gpt2: GPT2) -> None:
    options = ("--context", "before", "--window", "8", "--stride", "3")
    (record,) = command("score", "a b c d e f g h i", *options, "-m", model, "--json").records
    score = gpt2.score("a b c d e f g h i", context="before", window=8, stride=3)
    assert record["bits"] == score.bits


@pytest.mark.parametrize("options", [(), ("--json",), ("--csv",), ("--html", "page.html")])
def test_what_was_scored_before_a_text_that_fails_is_shown(
    command: Command,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("score", "Q", "a " * 60, *options, "-m", model)
    assert ended.code == 1
    assert "give a stride" in ended.err
    page = Path("page.html")
    assert "Q" in (page.read_text() if options[:1] == ("--html",) else ended.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "name a text", 2),
        (("",), "text 1 is empty", 1),
        (("-", "-"), "once", 2),
        (("-",), "standard input is not UTF-8 (byte 2)", 1),
        (("a", "b\udcff"), "text 2 is not UTF-8 (byte 1)", 1),
        (("--file", "head.csv"), "no line has a text", 1),
        (("a", "--stride", "0"), "stride must be 1", 2),
        (("a", "--stride", "49"), "stride must be 1 to the window's 48", 2),
        (("a " * 60,), "longer than the window: 6", 1),
        (("a", "--window", "49"), "window must be 1 to the context's 48", 2),
        (("a", "--top", "301"), "top must be 0 to the vocabulary's 300", 2),
        (("a", "--top", "2", "--json"), "--top is for tokens: give --by token", 2),
        (("a", "--top", "2", "--by", "word"), "--top is for tokens", 2),
        (("a", "--json", "--csv"), "exclude each other", 2),
        (("a", "--html", "no/such/place.html"), "directory does not exist", 1),
        (("a", "--html", "."), "is a directory", 1),
        (("--file", "nowhere.txt"), "nowhere.txt: No such file", 1),
        (("--file", "blank.txt", "--lines"), "no line has a text", 1),
        (("--file", "latin.txt"), "latin.txt is not UTF-8 (byte 1)", 1),
        (("a", "--bos", "300"), "bos 300 is not in the vocabulary", 2),
        (("a", "--bos", "\x1b[1m"), r"bos '\x1b[1m' is no token", 2),
        (("a", "--column", "text"), "--column is for tables in --file", 2),
        (("--file", "t.csv", "--column", "text", "--lines"), "--column is for tables", 2),
        (("--file", "t.csv", "--column", "text"), "name every column once, 'text' among them", 1),
        (("--file", "twice.csv", "--column", "a"), "it has 'a', 'a'", 1),
        (("--file", "t.csv", "--column", "a"), "t.csv, line 3: 1 cells, and 2 columns", 1),
        (("--file", "open.csv", "--column", "a"), "open.csv, line 2: no table (", 1),
        (("--file", "bits.csv", "--column", "a", "--csv", "--by", "word"), "'bits' is one of", 2),
        (
            ("--file", "no.csv", "--column", "a", "--format", "tsv", "--by", "word"),
            "'word_number' is one of",
            2,
        ),
        (("--file", "void.csv", "--column", "a"), "void.csv, line 3 is empty", 1),
    ],
)
def test_score_refuses_in_one_line(
    command: Command,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("blank.txt").write_text("\n \n")
    Path("head.csv").write_text("text,a\n")
    Path("latin.txt").write_bytes(b"\x41\xe9")
    Path("t.csv").write_text("a,b\n1,2\n3\n")
    Path("twice.csv").write_text("a,a\n1,2\n")
    Path("open.csv").write_text('a,b\n1,"2\n')
    Path("bits.csv").write_text("a,bits\n1,2\n")
    Path("no.csv").write_text("a,word_number\n1,2\n")
    Path("void.csv").write_text("a,b\n1,2\n,3\n")
    ended = command("score", *arguments, "-m", model, stdin=b"ab\xff")
    assert ended.code == code
    assert words in ended.in_one_line()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions that hold")
def test_a_directory_that_may_not_be_written_to(
    command: Command, model: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    ended = command("score", "a", "-m", model, "--html", tmp_path / "page.html")
    assert "cannot be written" in ended.in_one_line()


def test_the_page_is_written_whole_and_holds_the_scores(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path
) -> None:
    place = tmp_path / "page.html"
    place.write_text("earlier")
    ended = command("score", TEXT, "</script><!--", "-m", model, "--top", "2", "--html", place)
    assert (ended.code, ended.out.count("bits a byte")) == (0, 2)
    assert list(tmp_path.glob("*")) == [place]
    page = place.read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    data = page.split('id="data">')[1].split("</script>")[0]
    first, second = json.loads(data)["texts"]
    assert "".join(token["text"] for token in first["tokens"]) == TEXT
    assert "".join(token["text"] for token in second["tokens"]) == "</script><!--"
    assert [token["rank"] for token in first["tokens"]] == [t.rank for t in gpt2.score(TEXT).tokens]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays_one(command: Command, model: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as aside:
        reading = aside.submit(pipe.read_bytes)
        assert command("score", "a", "-m", model, "--html", pipe).code == 0
        assert reading.result(timeout=300).startswith(b"<!doctype html>")
    assert pipe.is_fifo()
