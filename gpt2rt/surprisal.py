"""The scores of a text: what `scoring.py` finds for its tokens, laid on characters and words.

The first token of a text is scored after `<|endoftext|>`, the token that GPT-2 saw between the
documents it was trained on, or after another (`bos`); with a context the model reads that token,
the context, the text. Context and text are made into tokens each on its own, so that the text's
tokens are always its own. The texts of a `Document` are made into tokens as one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2rt.alignment import Span, word_spans, words_of
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting, PromptTooLong
from gpt2rt.scoring import Passage, TokenScores, windows
from gpt2rt.tokenizer import Encoding
from gpt2rt.tokenizers import TextTokenizer

Boundary = Literal["leading", "trailing"]
Bos = int | str | None
AUTO = "auto"
ScoreTokens = Callable[[Iterable[Passage]], Iterator[TokenScores]]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that the model might have expected, and how much it did."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of the text: characters `start` to `end`, natural log-probability, rank.

    A character split over several tokens is in the span of each; `text` is what the token's bytes
    decode to, so U+FFFD for a part of a character. Rank 0 is the most likely token. A token that
    nothing stands before has no score: its numbers are NaN, its rank None.
    """

    token: int
    text: str
    start: int
    end: int
    logprob: float
    rank: int | None
    alternatives: tuple[Alternative, ...]

    @property
    def bits(self) -> float:
        """Surprisal."""
        return _bits(self.logprob)

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True, slots=True)
class WordScore:
    """A word, a run of characters without white space: characters `start` to `end`.

    `bits` is the surprisal of its tokens, numbers `first` to `last` (not included), with those of
    the white space before it; by the trailing boundary corrected as `_trailing` says. NaN where
    one of them has no score.
    """

    text: str
    start: int
    end: int
    first: int
    last: int
    bits: float


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model finds `text`, after `bos` (None: nothing), `context` and, in a document,
    the `preceding` characters of it; read in windows of `window` tokens.

    All sums and means are over what has a score: everything, unless nothing stands before the first
    token. Perplexities are 2 to the power of the mean surprisal per token, word and byte of UTF-8;
    `word_perplexity` is None for a text of white space, the others NaN where nothing has a score.
    White space at the end is in no word, but is in the mean: that divides the surprisal of the
    whole text by the number of words.
    """

    text: str
    bos: str | None
    context: str | None
    window: int
    stride: int | None
    boundary: Boundary
    tokens: tuple[TokenScore, ...]
    words: tuple[WordScore, ...]
    preceding: int = 0

    @property
    def bytes(self) -> int:
        return len(self.text.encode("utf-8"))

    @property
    def scored(self) -> tuple[TokenScore, ...]:
        """The tokens that have a score."""
        return tuple(token for token in self.tokens if token.rank is not None)

    @property
    def logprob(self) -> float:
        """Natural log-probability of the whole text."""
        return math.fsum(token.logprob for token in self.scored)

    @property
    def bits(self) -> float:
        """Surprisal of the whole text."""
        return _bits(self.logprob)

    @property
    def perplexity(self) -> float:
        return _power(_mean(self.bits, len(self.scored)))

    @property
    def word_perplexity(self) -> float | None:
        """The mean leaves out a first word without a score, and what of it has one."""
        words = [word for word in self.words if not math.isnan(word.bits)]
        if not self.words:
            return None
        first = 0 if len(words) == len(self.words) else self.words[0].last
        bits = _bits(math.fsum(token.logprob for token in self.tokens[first:]))
        return _power(_mean(bits, len(words)))

    @property
    def byte_perplexity(self) -> float:
        return _power(self.bits_per_byte)

    @property
    def bits_per_byte(self) -> float:
        start = self.scored[0].start if self.scored else len(self.text)
        return _mean(self.bits, len(self.text[start:].encode("utf-8")))


def _mean(bits: float, count: int) -> float:
    return bits / count if count else math.nan


def _bits(logprob: float) -> float:
    return -logprob / math.log(2) + 0.0  # no negative zero


def _power(bits: float) -> float:
    return math.inf if bits >= 1024 else 2.0**bits


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read. Raises `InvalidSetting`.

    `window` tokens at once (None: all that the model can), then on by `stride`: the tokens beyond
    the first window are predicted from `window - stride + 1` at least. Without a stride a text has
    to fit the window. `boundary` says which end of a word its white space is counted at; `bos` are
    the tokens that stand before context and text.
    """

    window: int
    stride: int | None
    context: str | None
    special: bool | None
    boundary: Boundary
    bos: tuple[int, ...]

    @classmethod
    def within(
        cls,
        n_ctx: int,
        window: int | None,
        stride: int | None,
        context: str | None,
        special: bool | None,
        boundary: Boundary,
        bos: tuple[int, ...],
    ) -> Reading:
        if boundary not in ("leading", "trailing"):
            raise InvalidSetting(f"boundary is leading or trailing, not {boundary!r}")
        window = n_ctx if window is None else window
        if not 1 <= window <= n_ctx:
            raise InvalidSetting(f"the window must be 1 to the context's {n_ctx}, not {window}")
        windows(0, window, window if stride is None else stride)
        return cls(window, stride, context, special, boundary, bos)

    def cuts(self, text: str, count: int) -> Iterator[tuple[int, int, int]]:
        """The `windows` of `text`, `count` tokens with what is before. Raises `PromptTooLong`."""
        if self.stride is None and count > self.window + 1:
            raise PromptTooLong(
                f"{text[:30]!r}... is longer than the window: {count - 1} tokens with the context, "
                f"and it holds {self.window}; give a stride, such as {max(1, self.window // 2)}"
            )
        return windows(count, self.window, self.stride or self.window)


def beginning(tokenizer: TextTokenizer, bos: Bos) -> tuple[int, ...]:
    """The tokens that `bos` names: a token's id or text, None for nothing, or `AUTO` for what the
    tokenizer puts before texts, else the token that a text from nothing begins with.

    Raises `InvalidSetting` where it names no token.
    """
    if bos is None:
        return ()
    if bos == AUTO:
        return tokenizer.before or (tokenizer.start_of_text,)
    if isinstance(bos, str):
        found = [token.id for token in tokenizer.special_tokens if token.text == bos]
        found = found or tokenizer.encode(bos, special=True)
        if len(found) != 1 or not 0 <= found[0] < tokenizer.n_vocab:
            raise InvalidSetting(
                f"bos {bos!r} is no token of the vocabulary; give a token's text or its id"
            )
        return (found[0],)
    if not isinstance(bos, Integral) or not 0 <= bos < tokenizer.n_vocab:
        raise InvalidSetting(
            f"bos {bos!r} is not in the vocabulary, which has 0 to {tokenizer.n_vocab - 1}"
        )
    return (int(bos),)


@dataclass(frozen=True, slots=True)
class Document:
    """Texts that follow each other, such as sentences, joined by `joint`; scored as one text.

    So a text is scored after those before it, and its tokens are those it has there. Raises
    `BadText` for an empty one.
    """

    texts: tuple[str, ...]
    joint: str = " "

    def __post_init__(self) -> None:
        if not all(self.texts):
            raise BadText("a text is empty: there is nothing to score")

    @property
    def text(self) -> str:
        return self.joint.join(self.texts)

    def parts(self, score: Score) -> list[Score]:
        """The score of each of the texts, cut from `score`, that of them all.

        The joint belongs to the text after it, and so does a token or a word that lies in two
        texts. What stands before a text is no character of it.
        """
        starts = accumulate((len(text) + len(self.joint) for text in self.texts), initial=0)
        spans = [
            (start, start + len(text)) for start, text in zip(starts, self.texts, strict=False)
        ]
        tokens = words_of([(token.start, token.end) for token in score.tokens], spans)
        words = words_of([(word.start, word.end) for word in score.words], spans)
        return [_part(score, *place) for place in zip(spans, tokens, words, strict=True)]


def _part(score: Score, span: Span, tokens: Span, words: Span) -> Score:
    """The score of the characters `span` of a text, which has the tokens and words numbered so."""
    start, text = span[0], score.text[slice(*span)]

    def moved(place: int, by: int = start) -> int:
        return max(0, place - by)

    return replace(
        score,
        text=text,
        preceding=start,
        tokens=tuple(
            replace(token, start=moved(token.start), end=moved(token.end))
            for token in score.tokens[slice(*tokens)]
        ),
        words=tuple(
            replace(
                word,
                text=text[moved(word.start) : moved(word.end)],
                start=moved(word.start),
                end=moved(word.end),
                first=moved(word.first, tokens[0]),
                last=moved(word.last, tokens[0]),
            )
            for word in score.words[slice(*words)]
        ),
    )


def score_texts(
    texts: Iterable[str],
    tokenizer: TextTokenizer,
    reading: Reading,
    score_tokens: ScoreTokens,
    advance: Callable[[int], None],
) -> Iterator[Score]:
    """The score of each text, in their order. Raises `BadText` for an empty one, `PromptTooLong`;
    the scores before that one come first.

    Any number of texts takes the memory of some. `advance` is told of tokens as they are scored.
    """
    before = (*reading.bos, *tokenizer.encode(reading.context or "", special=reading.special))
    # What may follow a text is asked for at a place of its own, whose token itself does not count.
    after = (tokenizer.end_of_text,)
    waiting: deque[tuple[str, Encoding, int]] = deque()  # text, tokens, number of windows
    failed: list[Gpt2rtError] = []

    def passages() -> Iterator[Passage]:
        for text in texts:
            try:
                encoding = tokenizer.encode_spans(text, special=reading.special)
                if not encoding.tokens:
                    raise BadText("a text is empty: there is nothing to score")
                every = (*before, *encoding.tokens)
                if reading.boundary == "trailing" or len(every) == 1:
                    every += after
                cuts = [
                    (start, end, max(first, len(before)))
                    for start, end, first in reading.cuts(text, len(every))
                    if end > len(before)
                ]
            except Gpt2rtError as error:
                failed.append(error)
                return
            waiting.append((text, encoding, len(cuts)))
            for start, end, first in cuts:
                yield Passage(every[start:end], first - start)

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


def _score(
    text: str,
    encoding: Encoding,
    parts: list[TokenScores],
    tokenizer: TextTokenizer,
    reading: Reading,
    first: int,
) -> Score:
    """The score of a text whose tokens have scores from number `first` on."""
    spans, count = encoding.spans, len(encoding.tokens)

    def column(found: Iterable[Iterable[Any]], missing: Any = math.nan) -> list[Any]:
        return [*[missing] * first, *chain.from_iterable(found)]

    logprobs = column(part.logprobs.tolist() for part in parts)[:count]
    ranks = column((part.ranks.tolist() for part in parts), None)[:count]
    best = column((_alternatives(tokenizer, part) for part in parts), ())[:count]
    scored = tuple(
        TokenScore(token, tokenizer.decode([token]), start, end, logprob, rank, alternatives)
        for token, (start, end), logprob, rank, alternatives in zip(
            encoding.tokens, spans, logprobs, ranks, best, strict=True
        )
    )
    words = word_spans(text)
    ranges = words_of(spans, words)
    bits = [_bits(math.fsum(logprobs[start:end])) for start, end in ranges]
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
        words=tuple(
            WordScore(text[start:end], start, end, *numbers, surprisal)
            for (start, end), numbers, surprisal in zip(words, ranges, bits, strict=True)
        ),
    )


def _trailing(
    bits: list[float], ranges: list[Span], begins: list[float], spaced: list[bool]
) -> list[float]:
    """The surprisal of words that end where the next begins, not where their own letters end.

    A vocabulary that has its spaces before words leaves open after `cat` whether the word goes on
    to be `cattle`. So p(word) = p(tokens) * B(after) / B(before), where B is the probability that
    white space or the end of the text comes next, and the division, which takes off the space that
    the word before has counted, is for words with white space before them (Pimentel and Meister
    2024, How to Compute the Probability of a Word; Oh and Schuler 2024, Leading Whitespaces of
    Language Models' Subword Vocabulary Pose a Confound for Calculating Word Probabilities).
    `begins` is log B at each token and after the last.
    """
    return [
        found + _bits(begins[last]) - (_bits(begins[first]) if space else 0.0)
        for found, (first, last), space in zip(bits, ranges, spaced, strict=True)
    ]


def word_beginnings(tokenizer: TextTokenizer) -> NDArray[np.int64]:
    """The tokens before which a word has ended: those that begin with white space, and the end."""
    texts = (tokenizer.token_bytes(n).decode("utf-8", "replace") for n in range(tokenizer.n_vocab))
    spaces = [n for n, text in enumerate(texts) if text[:1] and not word_spans(text[0])]
    return np.array(sorted({*spaces, tokenizer.end_of_text}))


def _alternatives(
    tokenizer: TextTokenizer, scores: TokenScores
) -> Iterator[tuple[Alternative, ...]]:
    """Those of each token."""
    for ids, logprobs in zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True):
        yield tuple(
            Alternative(token, tokenizer.decode([token]), math.exp(logprob))
            for token, logprob in zip(ids, logprobs, strict=True)
        )
