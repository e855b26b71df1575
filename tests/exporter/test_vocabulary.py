"""The made-up vocabulary: any size, read by the runtime, true to any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.errors import InvalidSetting
from gpt2rt.text.tokenizer import Tokenizer

pytest.importorskip("gpt2rt_export", reason="the exporter is not installed")
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary

ALL_BYTE_PAIRS = 256 + 256 * 256 + 1


def read(directory: Path, n_vocab: int) -> Tokenizer:
    write_vocabulary(directory, *synthetic_vocabulary(n_vocab))
    return Tokenizer.read(directory)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return read(tmp_path_factory.mktemp("vocabulary"), 1000)


@pytest.mark.parametrize(
    "n_vocab", [257, 258, 50257, ALL_BYTE_PAIRS, ALL_BYTE_PAIRS + 1, 2 * ALL_BYTE_PAIRS]
)
def test_it_has_the_size_asked_for(tmp_path: Path, n_vocab: int) -> None:
    tokenizer = read(tmp_path, n_vocab)
    text = "Any text: né 👋\n\n中\0"
    assert tokenizer.n_vocab == n_vocab
    assert tokenizer.end_of_text == n_vocab - 1
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(derandomize=True)
@given(text=st.text(st.characters(codec="utf-8")))
def test_it_is_true_to_any_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_likely_pairs_of_bytes_are_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(t) for t in tokenizer.encode("then a rest")] == [
        b"th", b"en", b" a", b" r", b"es", b"t"
    ]  # fmt: skip


def test_it_is_always_the_same() -> None:
    encoder, merges = synthetic_vocabulary(300)
    larger, more_merges = synthetic_vocabulary(400)
    assert (encoder, merges) == synthetic_vocabulary(300)
    assert merges == more_merges[: len(merges)]
    assert [*encoder][:-1] == [*larger][: len(encoder) - 1]


def test_too_few_tokens_for_the_bytes() -> None:
    with pytest.raises(InvalidSetting, match=r"n_vocab 256: .* needs at least 257"):
        synthetic_vocabulary(256)
