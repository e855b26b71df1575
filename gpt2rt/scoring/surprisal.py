"""Scores of whole texts: token scores mapped to characters and words.

The first token of a text is scored after `<|endoftext|>`, which separated the documents that GPT-2
was trained on, or after another token (`bos`). With a context the model reads that token, the
context, the text. Context and text are encoded separately, so that a text always has the same
tokens; the texts of a `Document` are encoded as one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import BadText, Gpt2rtError
from gpt2rt.scoring.reading import Reading
from gpt2rt.scoring.records import records
from gpt2rt.scoring.score import Alternative, Score, TokenScore, WordScore, bits_of
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.scoring.token_texts import texts_of
from gpt2rt.text.alignment import Span, word_spans, words_of
from gpt2rt.text.tokenizer import Encoding
from gpt2rt.text.tokenizers import TextTokenizer, once_per_tokenizer

ScoreTokens = Callable[[Iterable[Passage]], Iterator[TokenScores]]


def score_texts(
    texts: Iterable[str],
    tokenizer: TextTokenizer,
    reading: Reading,
    score_tokens: ScoreTokens,
    advance: Callable[[int], None],
) -> Iterator[Score]:
    """Score texts, in their order; any number of them takes little memory.

    `advance` is called with the number of tokens scored since its last call. Raises `BadText` for
    an empty text, `PromptTooLong`; the scores of earlier texts are returned before.
    """
    before = (*reading.bos, *tokenizer.encode(reading.context or "", special=reading.special))
    waiting: deque[tuple[str, Encoding, int]] = deque()  # text, tokens, number of windows
    failed: list[Gpt2rtError] = []

    def passages() -> Iterator[Passage]:
        for text in texts:
            try:
                encoding = tokenizer.encode_spans(text, special=reading.special)
                windows = _passages(text, encoding, before, tokenizer, reading)
            except Gpt2rtError as error:
                failed.append(error)
                return
            waiting.append((text, encoding, len(windows)))
            yield from windows

    found = score_tokens(passages())
    for part in found:
        text, encoding, count = waiting.popleft()
        parts = []
        for scores in chain([part], islice(found, count - 1)):
            advance(len(scores.logprobs))
            parts.append(scores)
        yield _score(text, encoding, parts, tokenizer, reading, first=int(not before))
    for error in failed:
        raise error


def _passages(
    text: str,
    encoding: Encoding,
    before: tuple[int, ...],
    tokenizer: TextTokenizer,
    reading: Reading,
) -> list[Passage]:
    """The windows in which a text is read after the tokens `before`. Raises as `score_texts`."""
    if not encoding.tokens:
        raise BadText("a text is empty: there is nothing to score")
    every = (*before, *encoding.tokens)
    if reading.boundary == "trailing" or len(every) == 1:
        # A token after the text gives the position at which it may end; its score is not used.
        every += (tokenizer.end_of_text,)
    return [
        Passage(every[start:end], max(first, len(before)) - start)
        for start, end, first in reading.cuts(text, len(every))
        if end > len(before)
    ]


def _score(
    text: str,
    encoding: Encoding,
    parts: list[TokenScores],
    tokenizer: TextTokenizer,
    reading: Reading,
    first: int,
) -> Score:
    """The score of a text whose tokens have scores from index `first` on."""
    spans, count = encoding.spans, len(encoding.tokens)

    def column(found: Iterable[Iterable[Any]], missing: Any = math.nan) -> list[Any]:
        return [*[missing] * first, *chain.from_iterable(found)]

    logprobs = column(part.logprobs.tolist() for part in parts)[:count]
    ranks = column((part.ranks.tolist() for part in parts), None)[:count]
    best = column((_alternatives(tokenizer, part) for part in parts), ())[:count]
    texts, (starts, ends) = texts_of(tokenizer, encoding.tokens), zip(*spans, strict=True)
    scored = records(TokenScore, encoding.tokens, texts, starts, ends, logprobs, ranks, best)
    words = word_spans(text)
    ranges = words_of(spans, words)
    bits = [bits_of(math.fsum(logprobs[start:end])) for start, end in ranges]
    if reading.boundary == "trailing":
        begins = column(part.group.tolist() for part in parts)
        spaced = [not word_spans(text[spans[start][0]]) for start, _ in ranges]
        bits = _trailing(bits, ranges, begins, spaced)
    return Score(
        text=text,
        bos=tokenizer.decode(reading.bos) if reading.bos else None,
        context=reading.context,
        window=reading.window,
        stride=reading.stride,
        boundary=reading.boundary,
        tokens=scored,
        words=_words(text, words, ranges, bits),
    )


def _words(
    text: str, spans: list[Span], ranges: list[Span], bits: list[float]
) -> tuple[WordScore, ...]:
    """The words at these spans of characters, which are these ranges of tokens."""
    if not spans:
        return ()
    words = [text[start:end] for start, end in spans]
    return records(WordScore, words, *zip(*spans, strict=True), *zip(*ranges, strict=True), bits)


def _trailing(
    bits: list[float], ranges: list[Span], begins: list[float], spaced: list[bool]
) -> list[float]:
    """The surprisal of words, in bits, including that the word ends after its last token.

    In a vocabulary with spaces before words, the tokens of `cat` do not say whether the word
    continues as `cattle`. So p(word) = p(tokens) * B(after) / B(before), where B is the probability
    that white space or the end of the text comes next. The division removes the white space that
    the word before has included; it applies to words with white space before them (Pimentel and
    Meister 2024, How to Compute the Probability of a Word; Oh and Schuler 2024, Leading Whitespaces
    of Language Models' Subword Vocabulary Pose a Confound for Calculating Word Probabilities).
    `begins` is log B before each token and after the last.
    """
    return [
        found + bits_of(begins[last]) - (bits_of(begins[first]) if space else 0.0)
        for found, (first, last), space in zip(bits, ranges, spaced, strict=True)
    ]


@once_per_tokenizer
def word_beginnings(tokenizer: TextTokenizer) -> NDArray[np.int64]:
    """The ids, int64 [n], of tokens that begin with white space, and of those that end a text.

    A word has ended before each of them. An ordinary word that ends a model's texts is none: in a
    given text it may be part of a word.
    """
    texts = (tokenizer.token_bytes(n).decode("utf-8", "replace") for n in range(tokenizer.n_vocab))
    spaces = [n for n, text in enumerate(texts) if text[:1] and not word_spans(text[0])]
    control = {token.id for token in tokenizer.special_tokens if token.special}
    return np.array(sorted({*spaces, tokenizer.end_of_text, *(control & set(tokenizer.ends))}))


def _alternatives(
    tokenizer: TextTokenizer, scores: TokenScores
) -> Iterator[tuple[Alternative, ...]]:
    """The alternatives at each position."""
    count, top = scores.top_ids.shape
    if not top:
        return repeat((), count)
    ids = scores.top_ids.ravel().tolist()
    chances = map(math.exp, scores.top_logprobs.ravel().tolist())
    every = iter(records(Alternative, ids, texts_of(tokenizer, ids), list(chances)))
    return zip(*[every] * top, strict=True)
