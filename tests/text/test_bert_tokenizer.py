"""`vocab.txt`, as BERT's and Chinese GPT-2s have it: the tokens that Transformers makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreign_tokenizers import TEXTS, exported, save_wordpiece, wordpiece
from gpt2rt.errors import BadTokenizer


def test_vocab_txt_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    found, made = exported(save_wordpiece(tmp_path / "model")), wordpiece()
    for text in TEXTS:
        wanted = made.encode(text)
        assert [*found.before, *found.encode(text), *found.after] == wanted.ids
        assert found.decode(wanted.ids) == made.decode(wanted.ids, skip_special_tokens=False)
    assert (found.start_of_text, found.end_of_text, found.before, found.after) == (2, 3, (2,), (3,))
    assert found.ends == ()  # 50256, which config.json names, is none


def test_values_of_transformers_itself(tmp_path: Path) -> None:
    """`BertTokenizer(vocab_file).encode` of transformers 5.24, without the last token."""
    found = exported(save_wordpiece(tmp_path / "model"))
    wanted = [2, 15, 16, 16, 17, 18, 19, 21, 5, 6, 1, 6, 8, 10, 11, 12]
    assert [*found.before, *found.encode("今天天气很好。The CÁT Straße cats don't")] == wanted


def test_settings_of_vocab_txt(tmp_path: Path) -> None:
    cased = exported(save_wordpiece(tmp_path / "cased", do_lower_case=False))
    assert cased.encode("The cat") == [1, 6]
    joined = exported(save_wordpiece(tmp_path / "joined", tokenize_chinese_chars=False))
    assert joined.encode("今天") == [1]
    folder = save_wordpiece(tmp_path / "more", eos_token="[PAD]")
    (folder / "added_tokens.json").write_text(json.dumps({"<user>": 40, "wow": 41}))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": ["<user>"]})
    )
    more = exported(folder)
    assert more.end_of_text == 0
    assert more.encode("the<user>wow cat") == [5, 40, 41, 6]
    assert 40 not in more.encode("<user>", special=False)
    assert more.encode("wow", special=False) == [41]


def test_control_tokens_are_text_where_asked(tmp_path: Path) -> None:
    found = exported(save_wordpiece(tmp_path / "model"))
    assert found.encode("the [SEP]") == [5, 3]
    assert 3 not in found.encode("the [SEP]", special=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unk_token": "<unk>"}, "has no <unk>.*as unk_token"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer.*save_pretrained"),
    ],
)
def test_what_vocab_txt_cannot_say(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    folder = save_wordpiece(tmp_path / "model", **change)
    with pytest.raises(BadTokenizer, match=reason):
        exported(folder)


def test_sentencepiece_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\n")
    with pytest.raises(BadTokenizer, match=r"SentencePiece \(spiece.model\).*save_pretrained"):
        exported(tmp_path)
