"""Scores of texts: sums that add up, windows and contexts as an independent loop has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference
from gpt2rt import GPT2
from gpt2rt.errors import BadText, InvalidSetting, PromptTooLong
from gpt2rt.scoring.score import Boundary
from models import NOISE, TINY, LargerWeights, assert_same
from scored_texts import BOUNDARIES, LONG, TEXTS


def log_probabilities(
    weights: LargerWeights, tokens: list[int], window: int, stride: int
) -> NDArray[np.float64]:
    """The log-probability of every token but the first, by a simple strided loop."""
    found: list[float] = []
    end = min(window + 1, len(tokens))
    while len(found) < len(tokens) - 1:
        read = tokens[max(0, end - window - 1) : end]
        logits = reference.logits(weights.read, TINY, read[:-1])
        row = np.log(reference.softmax(logits))[np.arange(len(read) - 1), read[1:]]
        found += row[len(found) - (end - 1) :].tolist()
        end = min(end + stride, len(tokens))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "stride"), [(None, 24), (48, 48), (48, 1), (20, 7), (1, 1), (30, 15)]
)
def test_sums_are_those_of_an_independent_strided_loop(
    tiny: GPT2, tiny_weights: LargerWeights, window: int | None, stride: int
) -> None:
    tokens = tiny.tokenizer.encode(LONG)
    assert len(tokens) > 2 * TINY.n_ctx
    score = tiny.score(LONG, window=window, stride=stride)
    assert (score.window, score.stride) == (window or 48, stride)
    every = [tiny.tokenizer.end_of_text, *tokens]
    oracle = log_probabilities(tiny_weights, every, score.window, stride)
    noise = NOISE[tiny.bundle.manifest.precision]
    np.testing.assert_allclose([token.logprob for token in score.tokens], oracle, atol=noise)
    assert score.logprob == pytest.approx(oracle.sum(), abs=noise * math.sqrt(len(tokens)))


def test_a_context_is_read_and_not_scored(tiny: GPT2, tiny_weights: LargerWeights) -> None:
    context, text = "what came before", " and what follows"
    score = tiny.score(text, context=context)
    tokenizer = tiny.tokenizer
    before = [tokenizer.end_of_text, *tokenizer.encode(context)]
    tokens = tokenizer.encode(text)
    oracle = log_probabilities(tiny_weights, before + tokens, 48, 48)[len(before) - 1 :]
    noise = NOISE[tiny.bundle.manifest.precision]
    assert [token.token for token in score.tokens] == tokens
    np.testing.assert_allclose([token.logprob for token in score.tokens], oracle, atol=noise)
    assert score.context == context


def test_a_long_context_fills_the_windows(tiny: GPT2, tiny_weights: LargerWeights) -> None:
    tokenizer = tiny.tokenizer
    before = [tokenizer.end_of_text, *tokenizer.encode(LONG)]
    tokens = tokenizer.encode(" the end of it")
    oracle = log_probabilities(tiny_weights, before + tokens, 48, 24)[len(before) - 1 :]
    score = tiny.score(" the end of it", context=LONG, stride=24)
    noise = NOISE[tiny.bundle.manifest.precision]
    np.testing.assert_allclose([token.logprob for token in score.tokens], oracle, atol=noise)


@pytest.mark.parametrize("boundary", ["leading", "trailing"])
@pytest.mark.parametrize("context", [None, "before"])
def test_another_token_may_stand_before_all(
    tiny: GPT2, tiny_weights: LargerWeights, context: str | None, boundary: Boundary
) -> None:
    tokenizer, text = tiny.tokenizer, "the cat sat"
    before = [7, *tokenizer.encode(context or "")]
    read = before + tokenizer.encode(text)
    oracle = log_probabilities(tiny_weights, read, 48, 48)[len(before) - 1 :]
    score = tiny.score(text, bos=7, context=context, boundary=boundary)
    noise = NOISE[tiny.bundle.manifest.precision]
    np.testing.assert_allclose([token.logprob for token in score.tokens], oracle, atol=noise)
    assert score == tiny.score(text, bos=tokenizer.decode([7]), context=context, boundary=boundary)
    assert score.bos == tokenizer.decode([7])
    own = tiny.score(text, context=context, boundary=boundary)
    assert own == tiny.score(text, bos="<|endoftext|>", context=context, boundary=boundary)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride"), [(None, 24), (48, 1), (20, 7), (1, 1)])
@pytest.mark.parametrize("text", [*TEXTS[:2], " cat sat", LONG])
def test_with_nothing_before_it_the_first_token_has_no_score(
    tiny: GPT2, tiny_weights: LargerWeights, text: str, window: int | None, stride: int
) -> None:
    tokens = tiny.tokenizer.encode(text)
    score = tiny.score(text, bos=None, window=window, stride=stride, top=2)
    oracle = log_probabilities(tiny_weights, tokens, window or 48, stride)
    noise = NOISE[tiny.bundle.manifest.precision]
    first, *rest = score.tokens
    assert (score.bos, first.rank, first.alternatives) == (None, None, ())
    assert math.isnan(first.logprob)
    assert math.isnan(first.bits)
    assert math.isnan(first.probability)
    np.testing.assert_allclose([token.logprob for token in rest], oracle, atol=noise)
    assert score.scored == tuple(rest)
    assert all(len(token.alternatives) == 2 for token in rest)
    bits = sum(token.bits for token in rest)
    assert math.log2(score.perplexity) * len(rest) == pytest.approx(bits)
    behind = len(text[rest[0].start :].encode())
    assert score.bits_per_byte * behind == pytest.approx(bits)
    assert [math.isnan(word.bits) for word in score.words] == [
        word.first == 0 for word in score.words
    ]
    of_words = sum(token.bits for token in score.tokens[score.words[0].last :])
    assert math.log2(score.word_perplexity or 0) * (len(score.words) - 1) == pytest.approx(of_words)


def test_without_a_bos_words_by_the_trailing_boundary_are_those_after_the_first(tiny: GPT2) -> None:
    """With its first tokens as context, the other tokens of a text have the same scores."""
    text = "the cat sat on"
    alone = tiny.score(text, bos=None, boundary="trailing")
    after = tiny.score(" cat sat on", bos=None, context="the", boundary="trailing")
    assert [word.text for word in alone.words][1:] == [word.text for word in after.words]
    assert math.isnan(alone.words[0].bits)
    found, wanted = ([word.bits for word in words] for words in (alone.words[1:], after.words))
    assert_same(found, wanted, tiny.bundle.manifest.precision)


def test_one_token_with_nothing_before_it_has_no_score_at_all(tiny: GPT2) -> None:
    for boundary in BOUNDARIES:
        one, more = tiny.score_batch(["x", "the cat"], bos=None, boundary=boundary)
        assert (one.text, one.scored, one.bits) == ("x", (), 0)
        assert all(map(math.isnan, (one.perplexity, one.byte_perplexity, one.bits_per_byte)))
        assert math.isnan(one.word_perplexity or 0)
        assert len(more.scored) == len(more.tokens) - 1
        assert len(tiny.score("x", bos=None, context="a", boundary=boundary).scored) == 1


@pytest.mark.parametrize("bos", [300, -1, 1.5, "", "the cat sat", "no such token"])
def test_a_bos_that_is_no_token_is_refused(tiny: GPT2, bos: Any) -> None:
    with pytest.raises(InvalidSetting, match=r"bos .* vocabulary"):
        tiny.score("a", bos=bos)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["leading", "trailing"])
@pytest.mark.parametrize("bos", ["auto", None])
@pytest.mark.parametrize("joint", [" ", "\n", "\n\n", ""])
@pytest.mark.parametrize("sentences", [LONG.split("ten "), TEXTS, ["a ", "  b", "\n", "\u3000c"]])
def test_sentences_of_a_document_are_slices_of_its_score(
    tiny: GPT2, sentences: list[str], joint: str, bos: str | None, boundary: Boundary
) -> None:
    sentences = [sentence for sentence in sentences if sentence]
    whole = tiny.score(
        joint.join(sentences), context="Title", bos=bos, window=40, stride=20, boundary=boundary
    )
    parts = tiny.score_document(
        sentences,
        joint=joint,
        context="Title",
        bos=bos,
        window=40,
        stride=20,
        boundary=boundary,
    )
    assert [part.text for part in parts] == sentences
    tokens = [token for part in parts for token in part.tokens]
    assert [(t.token, t.logprob, t.rank) for t in tokens] == [
        (t.token, t.logprob, t.rank) for t in whole.tokens
    ]
    assert [word.bits for part in parts for word in part.words] == [w.bits for w in whole.words]
    begin = 0
    for part in parts:
        assert part.preceding == begin
        begin += len(part.text) + len(joint)
        for token in part.tokens:
            assert 0 <= token.start <= token.end <= len(part.text)
        for word in part.words:
            assert part.text[word.start : word.end] == word.text
            assert 0 <= word.first < word.last <= len(part.tokens)


def test_words_of_a_sentence_are_its_own_and_add_up(tiny: GPT2) -> None:
    sentences = ["The cat sat.", "It was  warm,", "naïve 漢字 too."]
    for part in tiny.score_document(sentences, stride=20):
        assert [word.text for word in part.words] == part.text.split()
        for word in part.words:
            assert word.bits == pytest.approx(
                sum(token.bits for token in part.tokens[word.first : word.last])
            )
            own = part.tokens[word.last - 1]
            assert own.end == word.end
        assert part.bits == pytest.approx(sum(word.bits for word in part.words))


def test_a_document_longer_than_the_window_wants_a_stride(tiny: GPT2) -> None:
    with pytest.raises(PromptTooLong, match="give a stride"):
        tiny.score_document(["the cat sat"] * 40)
    with pytest.raises(BadText, match="empty"):
        tiny.score_document(["a", ""])
    with pytest.raises(InvalidSetting, match="list"):
        tiny.score_document("text")


@pytest.mark.parametrize("text", TEXTS)
def test_sums_add_up(tiny: GPT2, text: str) -> None:
    score = tiny.score(text, top=3)
    bits = -score.logprob / math.log(2)
    assert score.bits == pytest.approx(bits) == pytest.approx(sum(t.bits for t in score.tokens))
    assert math.log2(score.perplexity) * len(score.tokens) == pytest.approx(bits)
    assert math.log2(score.byte_perplexity) * len(text.encode()) == pytest.approx(bits)
    assert score.bits_per_byte * len(text.encode()) == pytest.approx(bits)
    assert math.log2(score.word_perplexity or 0) * len(score.words) == pytest.approx(bits)
    for word in score.words:
        own = score.tokens[word.first : word.last]
        assert own
        assert word.bits == pytest.approx(sum(token.bits for token in own))
    behind = score.tokens[score.words[-1].last :]
    inside = sum(word.bits for word in score.words) + sum(token.bits for token in behind)
    assert inside == pytest.approx(bits)
    for token in score.tokens:
        assert token.probability == pytest.approx(math.exp(token.logprob))
        if token.rank is not None and token.rank < 3:
            assert token.alternatives[token.rank].token == token.token


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_text_scores_the_same_among_others(tiny: GPT2, batch_size: int) -> None:
    texts = [*TEXTS, LONG, *TEXTS[::-1]]
    together = list(tiny.score_batch(iter(texts), top=2, stride=9, batch_size=batch_size))
    assert together == [tiny.score(text, top=2, stride=9) for text in texts]


def test_advance_is_told_of_every_token(tiny: GPT2) -> None:
    told: list[int] = []
    scores = list(tiny.score_batch([*TEXTS, LONG], stride=24, advance=told.append))
    assert sum(told) == sum(len(score.tokens) for score in scores)


def test_white_space_alone_has_no_words(tiny: GPT2) -> None:
    score = tiny.score(" \n ")
    assert score.words == ()
    assert score.word_perplexity is None
    assert score.bits > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 0}, "window must be 1 to the context's 48"),
        ({"window": 49}, "window must be 1 to the context's 48"),
        ({"stride": 0}, "stride must be 1 to the window's 48"),
        ({"stride": 49}, "stride must be 1 to the window's 48"),
        ({"window": 10, "stride": 11}, "stride must be 1 to the window's 10"),
        ({"top": -1}, "top must be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    tiny: GPT2, settings: dict[str, int], words: str
) -> None:
    with pytest.raises(InvalidSetting, match=words):
        tiny.score("a", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "half \ud800 pair"])
def test_texts_that_cannot_be_scored_are_refused(tiny: GPT2, text: str) -> None:
    with pytest.raises(BadText):
        tiny.score(text)


def test_a_text_longer_than_the_window_wants_a_stride(tiny: GPT2) -> None:
    """A text fits if its last token is predicted from the whole window."""
    tokens = len(tiny.tokenizer.encode(LONG[:40]))
    fitting = tiny.score(LONG[:40], window=tokens)
    assert len(fitting.tokens) == tokens
    for settings in ({"window": tokens - 1}, {"window": tokens, "context": "a"}):
        with pytest.raises(PromptTooLong, match=r"longer than the window.*give a stride"):
            tiny.score(LONG[:40], **settings)


@pytest.mark.parametrize("bad", [LONG, "", "half \ud800 pair"])
def test_what_comes_before_a_bad_text_is_scored(tiny: GPT2, bad: str) -> None:
    scores = tiny.score_batch([*TEXTS, bad, "never"])
    assert [next(scores).text for _ in TEXTS] == TEXTS
    with pytest.raises((BadText, PromptTooLong)):
        next(scores)


def test_one_text_is_no_list_of_texts(tiny: GPT2) -> None:
    for many in (tiny.score_batch, tiny.embed_batch, tiny.generate_batch):
        with pytest.raises(InvalidSetting, match="list"):
            many("text")
