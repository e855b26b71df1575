"""What is wrong with files of texts, options or disks is told, and what was done is kept."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from command_line import Command
from gpt2rt import GPT2
from gpt2rt.corpus.layout import DonePart, EncodedPart, Layout
from written import TEXTS, lines, table


@pytest.mark.parametrize("name", ["score", "embed", "tokenize"])
def test_rows_that_are_no_text_are_told_and_the_others_are_printed(
    command: Command, model: Path, tmp_path: Path, name: str
) -> None:
    """As they are written: with the same records, and the same rows told."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"the cat"\n{"text": 7}\n""\n\n{\n"sat"\n')
    given = (name, "--file", source, "-m", model)
    written = command(*given, "--output", output)
    printed = command(*given, "--json")
    assert printed.code == written.code == 1
    assert printed.out == output.read_text()
    assert printed.err.splitlines() == written.err.splitlines()[:-1]
    assert printed.err.startswith(f"gpt2rt: {source}, line 2: 'text' is no text")


def test_a_text_that_fails_is_told_and_the_others_are_printed(
    command: Command, model: Path
) -> None:
    for name in ("score", "embed"):
        ended = command(name, "a", "b " * 60, "c", "-m", model, "--json")
        assert (ended.code, [r["row"] for r in ended.records]) == (1, [1, 3])
        assert ended.err.startswith("gpt2rt: text 2: ")


@pytest.mark.parametrize("name", ["score", "embed"])
def test_rows_that_are_too_long_or_no_text_are_rejects(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path, name: str
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    rows = [*TEXTS, "x " * 60, "", 7, "last", "y " * 70]
    source.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in rows))
    ended = command(name, "--file", source, "--output", output, "-m", model)
    assert ended.code == 1
    assert f"gpt2rt: {source}, line 5: " in ended.err
    assert "4 of 9 rows could not be done" in ended.err
    assert [r["row"] for r in lines(output / "part-00000000.jsonl")] == [1, 2, 3, 4, 8]
    rejects = lines(output / "_rejects.jsonl")
    assert [(r["row"], r["line"]) for r in rejects] == [(n, n) for n in (5, 6, 7, 9)]
    assert "give a stride" in rejects[0]["reason"]
    assert rejects[0]["text"] == rows[4]
    assert command(name, "--file", source, "--output", output, "-m", model).err == ended.err


def test_many_rejects_are_counted(command: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{\n" * 300 + '"good"')
    given = ("--file", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "-m", model)
    ended = command("tokenize", *given)
    assert len(ended.err.splitlines()) == 11
    assert "300 of 301 rows" in ended.err
    assert len(lines(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize(
    ("arguments", "fact", "code"),
    [
        (("score", "a", "-o", "o.jsonl"), "go without it", 2),
        (("score", "-o", "o.jsonl"), "--output is for --file", 2),
        (("score", "-f", "t.csv", "-o", "o.jsonl", "--json"), "go without it", 2),
        (("score", "-f", "t.csv", "-o", "o.jsonl"), "'text' among them; it has 'a', 'b'", 1),
        (("score", "-f", "t.csv", "-o", "o.csv", "--column", "c"), "'c' among them", 1),
        (("score", "-f", "t.csv", "-o", "o.csv", "--column", "a", "--lines"), "is for tables", 2),
        (("score", "-f", "bits.csv", "-o", "o.csv", "--column", "a"), "'bits' is one of", 2),
        (("score", "-f", "t.csv", "--column", "a", "-o", "o.txt"), "writes JSON lines", 2),
        (("score", "-f", "t.csv", "--column", "a", "-o", "o.csv", "--window", "99"), "window", 2),
        (("score", "-f", "t.csv", "--column", "a", "-o", "o.csv", "--bos", "ab"), "bos", 2),
        (("score", "-f", "t.csv", "--column", "a", "-o", "o/", "--bos", "ab"), "bos", 2),
        (("score", "-f", "t.csv", "--column", "a", "-o", "o.csv", "--joint", "x"), "joint", 2),
        (("score", "-f", "t.csv", "--column", "a", "-o", "t.csv"), "file of the texts", 2),
        (("embed", "-f", "t.csv", "--column", "a", "-o", "o.csv", "--layer", "9"), "layer", 2),
        (("embed", "-f", "t.csv", "-o", "o.csv", "--cosine"), ".npy", 2),
        (("embed", "-f", "t.csv", "--column", "a", "--part-rows", "3"), "is for --output", 2),
        (("tokenize",), "name a text", 2),
        (("tokenize", "a", "--by", "token"), "--by is for --json", 2),
        (("score", "a", "--json", "--html", "p.html"), "--html excludes", 2),
        (("embed", "a", "--json", "-o", "v.npy"), "goes without", 2),
        (("generate", "-f", "t.csv", "--stats", "-o", "o.csv"), "never the same", 2),
        (("generate", "a", "--stats"), "is for --json", 2),
        (
            ("tokenize", "-f", "t.csv", "--column", "a", "-o", "o.csv", "--part-rows", "0"),
            "1 or",
            2,
        ),
        (("tokenize", "-f", "-", "-f", "-", "--lines", "-o", "o.csv"), "once only", 2),
    ],
)
def test_what_cannot_be_asked_for(
    command: Command,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    fact: str,
    code: int,
) -> None:
    """In one line, and nothing is left behind that would be in the way of the right settings."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b\n1,2\n")
    Path("bits.csv").write_text("a,bits\n1,2\n")
    ended = command(*arguments, "-m", model)
    assert ended.code == code
    assert fact in ended.in_one_line()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bits.csv", "t.csv"]


@pytest.mark.parametrize("texts", ["in", "in/*.jsonl"])
@pytest.mark.parametrize("output", ["in/out.jsonl", "in/deep/out.jsonl"])
def test_an_output_among_the_texts_is_refused(
    command: Command, model: Path, tmp_path: Path, texts: str, output: str
) -> None:
    """The next time it would be one of them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('"x"\n')
    given = ("--file", tmp_path / texts, "--output", tmp_path / output, "-m", model)
    assert "among the texts" in command("tokenize", *given).in_one_line()
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.jsonl"]
    given = ("--file", tmp_path / texts, "--output", tmp_path / "out.jsonl", "-m", model)
    assert command("tokenize", *given).code == 0


def test_nothing_to_do_is_done(command: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    given = ("score", "--file", tmp_path / "blank.txt", "--lines", "-m", model, "--output")
    for _ in range(2):
        assert command(*given, tmp_path / "out.csv").code == 0
        assert table(tmp_path / "out.csv") == []


@pytest.mark.parametrize("name", ["generate", "score", "embed", "tokenize"])
def test_a_file_that_cannot_be_read_ends_the_run_and_what_was_done_is_kept(
    command: Command, model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "utf16.jsonl").write_bytes(b"\xff\xfea\0")
    (tmp_path / "good.jsonl").write_text('{"text": "a"}\n' * 9)
    size = ("--column", "text", "--part-rows", "2", "-m", model, "--output", tmp_path / "out")
    bad = ("--file", tmp_path / "utf16.jsonl")
    assert "is UTF-16" in command(name, *bad, *size).in_one_line()
    assert [path.name for path in tmp_path.glob("out/*")] == []
    good = ("--file", tmp_path / "good.jsonl")
    assert "is UTF-16" in command(name, *good, *bad, *size).in_one_line()
    assert [len(lines(part)) for part in sorted(tmp_path.glob("out/part-*"))] == [2] * 4


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    command: Command, model: Path, texts: Path, tmp_path: Path
) -> None:
    given = ("score", "--file", texts, "-m", model, "--part-rows", "1")
    output, wanted = tmp_path / "out.jsonl", tmp_path / "wanted.jsonl"
    assert command(*given, "--output", wanted).code == 0
    with pytest.MonkeyPatch.context() as patch:
        put = Layout.put

        def full(self: Layout, encoded: EncodedPart) -> DonePart:
            if encoded.part.part == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return put(self, encoded)

        patch.setattr(Layout, "put", full)
        ended = command(*given, "--output", output)
    assert (ended.code, f"--output {output}: No space left" in ended.in_one_line()) == (1, True)
    assert command(*given, "--output", output).code == 0
    assert output.read_bytes() == wanted.read_bytes()


def test_tables_that_are_not_alike_stop_a_table_and_not_json_lines(
    command: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text,a\nx,1\n")
    (tmp_path / "in" / "b.csv").write_text("text,b\ny,2\n")
    given = ("tokenize", "--file", tmp_path / "in", "-m", model, "--part-rows", "1", "--output")
    ended = command(*given, tmp_path / "out.csv")
    assert (ended.code, "b.csv, line 2: has the columns 'b'" in ended.in_one_line()) == (1, True)
    assert command(*given, tmp_path / "out.jsonl").code == 0
    assert [r["input"] for r in lines(tmp_path / "out.jsonl")] == [{"a": "1"}, {"b": "2"}]
