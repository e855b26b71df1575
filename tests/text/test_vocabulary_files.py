"""The files of a vocabulary: damage and contradictions are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2rt.errors import BadTokenizer
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt.text.vocabulary_files import END_OF_TEXT
from small_vocabulary import MERGED, vocabulary, write


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, vocabulary(MERGED), MERGED) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:7] + b"\xff" + whole[7:])
    with pytest.raises(BadTokenizer, match=rf"{name}: byte 7 is not UTF-8; copy"):
        Tokenizer.read(tmp_path)
    path.unlink()
    with pytest.raises(BadTokenizer, match=rf"{name}: no such file; copy"):
        Tokenizer.read(tmp_path)
    path.mkdir()
    with pytest.raises(BadTokenizer, match=rf"{name}: cannot be read \(.*\); copy"):
        Tokenizer.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": 1} {'], ids=len)
def test_encoder_that_is_not_json(tmp_path: Path, text: str) -> None:
    write(tmp_path, {}, [])
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(BadTokenizer, match=r"encoder\.json: not JSON \(.*\); copy"):
        Tokenizer.read(tmp_path)


GOOD = vocabulary(MERGED)


@pytest.mark.parametrize(
    ("encoder", "complaint"),
    [
        ([*GOOD], "holds list, not an object"),
        ({**GOOD, "th": "256"}, "the id of 'th' is '256', not a whole number"),
        ({**GOOD, "Ġt": True}, r"the id of '\\u0120t' is True, not a whole number"),
        ({**GOOD, "th": [0] * 99}, r"the id of 'th' is (\[0, .{36}), not a whole number"),
        ({**GOOD, "th": 17}, r"the ids are not 0 to 268, each once \(look for 17\)"),
        ({**GOOD, "th": -3}, r"the ids are not 0 to 268, each once \(look for -3\)"),
        ({**GOOD, "th": 269}, r"the ids are not 0 to 268, each once \(look for \d+\)"),
        ({**GOOD, "a b": 269}, "symbol 'a b' is not made of the 256 characters"),
        ({**GOOD, "\ud800": 269}, r"symbol '\\ud800' is not made of"),
        ({**GOOD, "ń" * 999: 269}, r"symbol '(\\u0144)+\S* is not made of"),
        ({**GOOD, "": 269}, "symbol '' is not made of"),
        ({}, "symbol .* is missing"),
        ({s: i for s, i in GOOD.items() if s != END_OF_TEXT}, r"'<\|endoftext\|>' is missing"),
    ],
)
def test_encoder_that_is_no_vocabulary(tmp_path: Path, encoder: object, complaint: str) -> None:
    with pytest.raises(BadTokenizer, match=rf"encoder\.json: .*{complaint}.*; copy") as caught:
        Tokenizer.read(write(tmp_path, encoder, MERGED))
    message = str(caught.value)
    assert message.isprintable()  # one line, in a terminal of any encoding
    assert message.isascii()
    assert len(message) < len(str(tmp_path)) + 200


@pytest.mark.parametrize(
    ("merges", "complaint"),
    [
        (["t h", "the"], "line 3: 'the' is not two symbols"),
        (["t h", ""], "line 3: '' is not two symbols"),
        (["t h "], "line 2: 't h ' is not two symbols"),
        (["t h e"], "line 2: 't h e' is not two symbols"),
        (["x x"], r"line 2: 'xx' is not in encoder\.json"),
        (["th e", "xx t"], r"line 3: 'xx' is not in encoder\.json"),
        (["t ń"], r"line 2: '\\u0144' is not in encoder\.json"),
    ],
)
def test_merges_at_odds_with_the_encoder(tmp_path: Path, merges: list[str], complaint: str) -> None:
    with pytest.raises(BadTokenizer, match=rf"vocab\.bpe: {complaint}.*; copy"):
        Tokenizer.read(write(tmp_path, GOOD, merges))


@pytest.mark.parametrize("text", ["", "t h\n"])
def test_merges_without_a_version(tmp_path: Path, text: str) -> None:
    write(tmp_path, GOOD, MERGED)
    (tmp_path / "vocab.bpe").write_text(text)
    with pytest.raises(BadTokenizer, match=r"vocab\.bpe: line 1 is .*, not a `#version`; copy"):
        Tokenizer.read(tmp_path)
