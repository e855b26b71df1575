r"""Texts as they come: byte order marks, escapes, the hint at a last space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Command
from gpt2rt import GPT2
from gpt2rt.cli.input.typed import hint_at_space, typed
from gpt2rt.errors import BadText
from gpt2rt.text.textfile import decoded


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (r"a\nb\r\t", "a\nb\r\t"),
        (r"\\n", r"\n"),
        (r"\"\'", "\"'"),
        (r"\xe4\xb8\xad\x41", "中A"),
        (r"\u4e2d\ud83d\ude00", "中😀"),
        (r"\alpha \x4 \u12 \ ", r"\alpha \x4 \u12 \ "),
        ("\\", "\\"),
        ("中\n", "中\n"),
    ],
)
def test_escapes_mean_characters_or_stay(text: str, meant: str) -> None:
    assert typed(text, escape=True) == meant
    assert typed(text, escape=False) == text


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadText, match=r"not UTF-8 \(byte 1\)"):
        typed(r"a\xff", escape=True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_byte_order_marks_are_named(encoding: str) -> None:
    with pytest.raises(BadText, match=f"f.txt is {encoding.upper()}.*save it as UTF-8"):
        decoded("text".encode(encoding), "f.txt")


def test_a_byte_order_mark_is_no_text(command: Command, model: Path, tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_bytes(b"one two\n")
    marked.write_bytes(b"\xef\xbb\xbfone two\n")

    def tokens(file: Path) -> list[int]:
        (record,) = command("tokenize", "--file", file, "-m", model, "--json").records
        return list(record["tokens"])

    assert tokens(plain) == tokens(marked)


def test_prompt_and_context_have_escapes_and_files_have_none(
    command: Command, model: Path, gpt2: GPT2, tmp_path: Path
) -> None:
    file = tmp_path / "t.txt"
    file.write_text(r"a\nb")
    arguments = ("-m", model, "--json", "--context", r"x\ty", "--file", file)
    records = command("score", r"a\nb", *arguments).records
    assert [record["text"] for record in records] == ["a\nb", r"a\nb"]
    assert records[0]["bits"] == gpt2.score("a\nb", context="x\ty").bits
    made = command("generate", r"a\nb", "-m", model, "--json", "--length", "1", "--no-escape")
    assert json.loads(made.out)["prompt"] == r"a\nb"


def test_a_last_space_is_told_once_on_standard_error(command: Command, model: Path) -> None:
    for prompt, told in (("one ", 1), ("one", 0)):
        ended = command("generate", prompt, "-m", model, "--json", "--length", "1", "-n", "2")
        assert ended.err.count("ends in a space") == told
        assert len(ended.records) == 2


def test_the_hint_is_for_vocabularies_with_spaces_before_words() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    assert not hint_at_space(Letters(), ["one "])  # type: ignore[arg-type]
