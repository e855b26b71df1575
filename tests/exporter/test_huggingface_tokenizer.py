"""The tokenizer beside a model of Transformers: the tokens of `tokenizers`, or a refusal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from gpt2rt.errors import BadText, BadTokenizer
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export.tokenizers.huggingface import write_tokenizer
from gpt2rt_export.tokenizers.huggingface_files import Carried


@pytest.fixture
def trained() -> Callable[..., Any]:
    """Trains a real `tokenizers` BPE with added tokens."""
    library = pytest.importorskip("tokenizers")

    def train(*specials: str, prefix: bool = False) -> Any:
        tokenizer = library.Tokenizer(library.models.BPE())
        byte_level = library.pre_tokenizers.ByteLevel
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=prefix)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=list(specials),
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([(Path(__file__).read_text())], trainer)
        more = [library.AddedToken("[M]", lstrip=True), library.AddedToken("[E]", rstrip=True)]
        more += [library.AddedToken("word", single_word=True), "hé llo", "zz", "zzz"]
        tokenizer.add_tokens(more)
        return tokenizer

    return train


BITS = ["<|endoftext|>", "</s>", "[M]", "[E]", "word", "hé llo", "zz", "z", " ", "\n", "  ", "the"]
BITS += ["é", "👋", "x", "_", "123", "'s", "\t", "\u00a0", "reword", "."]


@pytest.mark.parametrize("specials", [["<|endoftext|>"], ["<s>", "</s>", "<pad>"]])
@pytest.mark.parametrize("prefix", [False, True])
def test_a_tokenizer_with_added_tokens_equals_tokenizers(
    trained: Callable[..., Any], specials: list[str], prefix: bool, tmp_path: Path
) -> None:
    theirs = trained(*specials, prefix=prefix)
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 1, "bos_token_id": 0}))
    (tmp_path / "out").mkdir()
    size = theirs.get_vocab_size()
    assert write_tokenizer(tmp_path, size + 6, tmp_path / "out").left_out == ()
    ours = Tokenizer.read(tmp_path / "out")
    assert (ours.n_vocab, ours.start_of_text) == (size + 6, 0)
    random = np.random.default_rng(1)
    for _ in range(500):
        text = "".join(random.choice(BITS) for _ in range(random.integers(0, 9)))
        tokens = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=True) == tokens
        theirs.encode_special_tokens = True  # its name for: control tokens are text
        plain = theirs.encode(text, add_special_tokens=False).ids
        theirs.encode_special_tokens = False
        assert ours.encode(text, special=False) == plain
    for token in range(size):
        assert ours.decode([token]) == theirs.decode([token], skip_special_tokens=False) or (
            token in {t.id for t in ours.special_tokens}
        )
    assert ours.decode([size, size + 5]) == "", "ids of the model alone stand for nothing"
    assert ours.decode([theirs.token_to_id("hé llo")]) == "hé llo"


@pytest.mark.parametrize("said", [None, False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "GPT2TokenizerFast", None, "Another"])
def test_who_decides_about_the_space_before_a_text(
    trained: Callable[..., Any], kind: str | None, inside: bool, said: bool | None, tmp_path: Path
) -> None:
    """Seen in Transformers 5.24: its GPT-2 tokenizers go by tokenizer_config.json alone."""
    trained("<|endoftext|>", prefix=inside).save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "add_prefix_space": said, "model_max_length": 1024}
    known = {name: value for name, value in settings.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(known))
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path, 300, tmp_path / "out")
    wanted = inside if kind == "Another" else bool(said)
    assert Tokenizer.read(tmp_path / "out").prefix_space == wanted


def test_vocabulary_and_merges_are_read_where_there_is_no_tokenizer_json(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    theirs = trained("<|endoftext|>")
    theirs.model.save(str(tmp_path))
    added = {t: theirs.token_to_id(t) for t in ("[M]", "word", "zz")}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"zz": 290, "word": 291}))
    (tmp_path / "out").mkdir()
    assert len(added) == 3
    assert write_tokenizer(tmp_path, 292, tmp_path / "out") == Carried()
    ours = Tokenizer.read(tmp_path / "out")
    assert ours.encode("zz<|endoftext|>word", special=True) == [290, 0, 291]
    assert ours.end_of_text == ours.start_of_text == 0
    text = "any text <|endoftext|> zz: é 👋"
    assert ours.decode(ours.encode(text)) == text
    # A pad token that the model was never given rows for is left out, and named.
    (tmp_path / "out2").mkdir()
    assert write_tokenizer(tmp_path, 291, tmp_path / "out2").left_out == ("word",)


def test_a_vocabulary_without_every_byte_takes_the_texts_that_it_can(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    """As of a trainer that was not given all bytes: those that it never saw have no token."""
    body = json.loads(trained("<|endoftext|>").to_str())
    lost = {"~", "ł"}  # the tilde, and byte 0xa0 of a no-break space
    kept = {s: i for s, i in body["model"]["vocab"].items() if not lost & set(s)}
    body["model"]["vocab"] = {symbol: i for i, symbol in enumerate(kept)}
    body["model"]["merges"] = [m for m in body["model"]["merges"] if not lost & set("".join(m))]
    body["added_tokens"] = body["added_tokens"][:1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(body))
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path, 300, tmp_path / "out")
    ours = Tokenizer.read(tmp_path / "out")
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "any text that it can: é 👋 \x00"
    assert ours.encode(text) == theirs.encode(text).ids
    for text, byte in (("a~b", "0x7e"), ("\u00a0", "0xa0")):
        with pytest.raises(BadText, match=f"no token for byte {byte} of"):
            ours.encode(text)


def test_ends_of_a_text_other_than_openais(trained: Callable[..., Any], tmp_path: Path) -> None:
    trained("<s>", "</s>").save(str(tmp_path / "tokenizer.json"))
    for config, start, end in (
        ({"eos_token_id": 1, "bos_token_id": 0}, 0, 1),
        ({"eos_token_id": 1}, 1, 1),
        ({"eos_token_id": 50256, "bos_token_id": 50256}, 0, 1),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        names = {"eos_token": "</s>", "bos_token": {"content": "<s>"}}
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(names if start != end else {}))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        write_tokenizer(tmp_path, 300, tmp_path / "out")
        ours = Tokenizer.read(tmp_path / "out")
        assert (ours.start_of_text, ours.end_of_text) == (start, end)
    (tmp_path / "config.json").unlink()
    path.unlink()
    with pytest.raises(BadTokenizer, match="no token ends a text"):
        write_tokenizer(tmp_path, 300, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"model": {"type": "WordPiece"}}, "a WordPiece tokenizer"),
        ({"model": {"type": "Unigram"}}, "a Unigram tokenizer"),
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer is Whitespace"),
        ({"pre_tokenizer": None}, "the pre-tokenizer is none"),
        ({"model": None}, "has no model"),
        ({"added_tokens": [3]}, "is no added token"),
    ],
)
def test_tokenizers_of_another_kind_are_refused_by_name(
    trained: Callable[..., Any], changes: dict[str, Any], fact: str, tmp_path: Path
) -> None:
    body = json.loads(trained("<|endoftext|>").to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**body, **changes}))
    with pytest.raises(BadTokenizer, match=re.escape(fact)):
        write_tokenizer(tmp_path, 300, tmp_path)


def test_a_tokenizer_that_is_not_the_models_own(huggingface: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadTokenizer, match="300 tokens, but the model's n_vocab is 50257"):
        write_tokenizer(huggingface, 50257, tmp_path / "out")
    with pytest.raises(BadTokenizer, match="300 tokens, but the model's n_vocab is 280"):
        write_tokenizer(huggingface, 280, tmp_path / "out")
    (huggingface / "merges.txt").unlink()
    (huggingface / "vocab.json").unlink()
    (huggingface / "vocab.txt").touch()
    with pytest.raises(BadTokenizer, match="a WordPiece"):
        write_tokenizer(huggingface, 300, tmp_path / "out")


def test_merges_cut_short_are_found_and_named(huggingface: Path, tmp_path: Path) -> None:
    lines = (huggingface / "merges.txt").read_text().splitlines()
    (huggingface / "merges.txt").write_text("\n".join(lines[: len(lines) // 2]))
    (tmp_path / "out").mkdir()
    with pytest.raises(BadTokenizer, match=r"model/merges\.txt: .* made by no merge"):
        write_tokenizer(huggingface, 300, tmp_path / "out")
