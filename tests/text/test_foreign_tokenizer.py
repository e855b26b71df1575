"""Tokenizers of the `tokenizers` library: its tokens and texts, or a refusal."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from foreign_tokenizers import KINDS, TEXTS, exported, rows, save, whitespace_bpe, wordpiece
from gpt2rt.errors import BadText, BadTokenizer, InvalidSetting, MissingExtra
from gpt2rt.text.foreign_tokenizer import ForeignTokenizer
from gpt2rt.text.tokenizers import read_tokenizer


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, ForeignTokenizer]:
    """A tokenizer of the library, and the tokenizer that is exported from it."""
    made = KINDS[request.param]()
    return made, exported(save(tmp_path / "model", made), rows(made))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_spans_are_the_librarys(
    pair: tuple[Tokenizer, ForeignTokenizer], text: str
) -> None:
    made, found = pair
    wanted = made.encode(text, add_special_tokens=False)
    assert found.encode(text) == wanted.ids
    encoding = found.encode_spans(text)
    assert list(encoding.tokens) == wanted.ids
    assert list(encoding.spans) == wanted.offsets
    assert found.decode(wanted.ids) == made.decode(wanted.ids, skip_special_tokens=False)
    assert [*found.before, *wanted.ids, *found.after] == made.encode(text).ids


def test_strings_of_a_stream_are_the_text(pair: tuple[Tokenizer, ForeignTokenizer]) -> None:
    """For any tokens, including invalid sequences of bytes."""
    made, found = pair
    chance = random.Random(5)
    for _ in range(60):
        tokens = chance.choices(range(made.get_vocab_size()), k=12)
        if chance.random() < 0.5:
            tokens[3:6] = chance.choices(range(min(8, made.get_vocab_size())), k=3)
        cut = chance.randrange(6)
        stream = found.stream()
        assert "".join([*map(stream.push, tokens), stream.close()]) == found.decode(tokens)
        stream = found.stream(tokens[:cut])
        text = "".join(map(stream.push, tokens[cut:-1])) + stream.push(tokens[-1], True)
        if not found.is_open(tokens[max(0, cut - 1)]) and "\ufffd" not in found.decode(tokens):
            assert found.decode(tokens[:cut]) + text == found.decode(tokens)


def test_bytes_of_tokens_are_what_they_add(pair: tuple[Tokenizer, ForeignTokenizer]) -> None:
    made, found = pair
    for text in TEXTS:
        tokens = made.encode(f"a {text}", add_special_tokens=False).ids
        first = found.decode_bytes(tokens[:1])
        joined = b"".join(map(found.token_bytes, tokens[1:]))
        assert first + joined == found.decode_bytes(tokens)


def test_a_token_the_model_does_not_have(pair: tuple[Tokenizer, ForeignTokenizer]) -> None:
    _, found = pair
    for token in (-1, found.n_vocab):
        with pytest.raises(InvalidSetting, match=f"token {token} is not in the vocabulary"):
            found.decode([token])
    with pytest.raises(BadText, match=r"half a surrogate pair, U\+D800, at position 1"):
        found.encode("a\ud800")
    assert found.decode([found.n_vocab - 1]) is not None  # an id without a symbol


# ---- sizes and damage


def test_a_token_without_a_row_is_refused_by_name(tmp_path: Path) -> None:
    made = wordpiece()
    made.add_tokens([AddedToken("wow")])
    n_vocab = made.get_vocab_size() - 3
    folder = save(tmp_path / "model", made)
    found = exported(folder, n_vocab)
    assert found.encode("the wow") != made.encode("the wow", add_special_tokens=False).ids
    with pytest.raises(BadText, match=rf"has 'd', token {n_vocab + 1}.*{n_vocab} tokens only"):
        found.encode("the d")
    assert not found.decode(range(n_vocab)).endswith("d")


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTokenizer, match="name the model's own tokenizer"):
        exported(save(tmp_path / "model", wordpiece()), 5000, own=False)


def test_a_character_without_a_symbol_is_not_dropped(tmp_path: Path) -> None:
    made = whitespace_bpe()
    body = json.loads(made.to_str())
    body["model"]["unk_token"] = None
    found = exported(save(tmp_path / "model", Tokenizer.from_str(json.dumps(body))))
    assert found.encode("the  cat") == made.encode("the  cat").ids
    with pytest.raises(BadText, match="no token for 'é'"):
        found.encode("cafés")


@pytest.mark.parametrize(
    "added",
    [
        7,
        "abc",
        {"a": 1},
        ["abc"],
        [None],
        [{}],
        [{"id": 1}],
        [{"id": "1", "content": "a"}],
        [{"id": -1, "content": "a"}],
        [{"id": None, "content": ""}],
    ],
)
def test_damaged_added_tokens_are_told(tmp_path: Path, added: object) -> None:
    folder = save(tmp_path / "model", wordpiece())
    body = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**body, "added_tokens": added}))
    with pytest.raises(BadTokenizer, match=r"tokenizer\.json: "):
        exported(folder)


def test_damage_is_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", wordpiece())
    body = json.loads((folder / "tokenizer.json").read_text())
    body["model"]["vocab"] = 7
    (folder / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(BadTokenizer, match=r"tokenizer\.json: not a tokenizer that"):
        exported(folder)
    (folder / "special_tokens.json").unlink(missing_ok=True)
    with pytest.raises(BadTokenizer, match=r"special_tokens\.json: no such file"):
        read_tokenizer(folder)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "model", wordpiece())
    exported(folder)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r'pip install "gpt2rt\[tokenizers\]"'):
        read_tokenizer(folder / "work")
    with pytest.raises(MissingExtra, match=r'pip install "gpt2rt\[tokenizers\]"'):
        exported(folder)
