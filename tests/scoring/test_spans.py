"""The places of tokens and words in a text, and which tokens are whose."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from gpt2rt import GPT2
from gpt2rt.scoring.surprisal import word_beginnings
from gpt2rt.text.alignment import occurrences, tokens_in, word_spans, words_of
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary
from models import NOISE, TINY, LargerWeights
from scored_texts import TEXTS


@pytest.mark.parametrize("text", TEXTS)
def test_places_are_exact(tiny: GPT2, text: str) -> None:
    score = tiny.score(text)
    assert [word.text for word in score.words] == re.findall(r"\S+", text)
    assert [text[word.start : word.end] for word in score.words] == re.findall(r"\S+", text)
    covered = set()
    for token in score.tokens:
        if "�" not in token.text:
            assert text[token.start : token.end] == token.text
        covered |= set(range(token.start, token.end))
    assert covered == set(range(len(text)))


@pytest.mark.slow
@given(text=st.text(min_size=1))
def test_spans_of_any_text(text: str) -> None:
    """A token's bytes are within its characters, and its first and last have some of them."""
    tokenizer = SYNTHETIC
    tokens = tokenizer.encode(text)
    spans = tokenizer.encode_spans(text).spans
    at = 0
    for token, (start, end) in zip(tokens, spans, strict=True):
        data = tokenizer.token_bytes(token)
        before, through = len(text[:start].encode()), len(text[:end].encode())
        assert before <= at < len(text[: start + 1].encode())
        assert len(text[: end - 1].encode()) < at + len(data) <= through
        at += len(data)
    words = word_spans(text)
    owned = words_of(spans, words)
    assert all(first < last for first, last in owned)
    assert [first for first, _ in owned] == ([0] + [last for _, last in owned])[: len(words)]
    for (start, end), (first, last) in zip(words, tokens_in(spans, words), strict=True):
        assert [i for i, (a, b) in enumerate(spans) if b > start and a < end] == list(
            range(first, last)
        )


def test_occurrences_are_whole_words() -> None:
    assert occurrences("bank, Bank; banks (bank) bank", "bank") == [(0, 4), (19, 23), (25, 29)]
    assert occurrences("a.c abc", "a.c") == [(0, 3)]


@pytest.mark.parametrize("text", [*TEXTS[:4], " cat sat", "two  spaces "])
@pytest.mark.parametrize("context", [None, "before"])
def test_words_by_the_trailing_boundary_equal_an_oracle(
    tiny: GPT2, tiny_weights: LargerWeights, text: str, context: str | None
) -> None:
    tokenizer = tiny.tokenizer
    begins = [
        n == tokenizer.end_of_text or bool(re.match(r"[^\S\x1c-\x1f]", tokenizer.decode([n])))
        for n in range(tokenizer.n_vocab)
    ]
    before = [tokenizer.end_of_text, *tokenizer.encode(context or "")]
    read = [*before, *tokenizer.encode(text)]
    if len(read) > TINY.n_ctx:
        pytest.skip("longer than the model reads at once")
    chances = reference.softmax(reference.logits(tiny_weights.read, TINY, read))
    word_may_begin = chances[len(before) - 1 :] @ np.array(begins)
    noise = 3 * NOISE[tiny.bundle.manifest.precision] + 1e-4
    leading = tiny.score(text, context=context)
    trailing = tiny.score(text, context=context, boundary="trailing")
    assert [t.token for t in trailing.tokens] == [t.token for t in leading.tokens]
    np.testing.assert_allclose(trailing.bits, leading.bits, rtol=1e-5)
    for one, other in zip(leading.words, trailing.words, strict=True):
        wanted = one.bits - np.log2(word_may_begin[one.last])
        if text[leading.tokens[one.first].start].isspace():
            wanted += np.log2(word_may_begin[one.first])
        assert other.bits == pytest.approx(wanted, abs=noise)


def _synthetic() -> Tokenizer:
    import tempfile
    from pathlib import Path

    from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary

    with tempfile.TemporaryDirectory() as place:
        write_vocabulary(Path(place), *synthetic_vocabulary(400))
        return Tokenizer.read(Path(place))


SYNTHETIC = _synthetic()


def test_every_end_of_a_text_ends_a_word() -> None:
    """A chat model's end of a turn does, too; an ordinary word that ends its texts does not."""
    names = ("<|endoftext|>", "<|end|>", "stop")
    tokens = tuple(
        SpecialToken(300 + n, text, special=text.startswith("<")) for n, text in enumerate(names)
    )
    symbols, merges = synthetic_vocabulary(300)
    symbols = {symbol: token for symbol, token in symbols.items() if token < 299}
    own = SpecialTokens(303, 300, 300, tokens, ends=(300, 301, 302))
    tokenizer = Tokenizer(symbols, {" ".join(pair): n for n, pair in enumerate(merges)}, own)
    found = set(word_beginnings(tokenizer).tolist())
    assert {300, 301} <= found
    assert 302 not in found
