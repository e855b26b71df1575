"""The scores of a text: what `scoring.py` finds for its tokens, laid on characters and words.

The first token of a text is scored after `<|endoftext|>`, the token that GPT-2 saw between the
documents it was trained on; with a context the model reads `<|endoftext|>`, the context, the text.
Context and text are made into tokens each on its own, so that the text's tokens are always its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt2rt.alignment import Span, word_spans, words_of
from gpt2rt.errors import BadText, Gpt2rtError, InvalidSetting, PromptTooLong
from gpt2rt.scoring import Passage, TokenScores, windows
from gpt2rt.tokenizer import Encoding
from gpt2rt.tokenizers import TextTokenizer

Boundary = Literal["leading", "trailing"]
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
    decode to, so U+FFFD for a part of a character. Rank 0 is the most likely token.
    """

    token: int
    text: str
    start: int
    end: int
    logprob: float
    rank: int
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
    the white space before it; by the trailing boundary corrected as `_trailing` says.
    """

    text: str
    start: int
    end: int
    first: int
    last: int
    bits: float


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model finds `text`, after `context`; read in windows of `window` tokens.

    Perplexities are 2 to the power of the mean surprisal per token, word and byte of UTF-8;
    `word_perplexity` is None for a text of white space. White space at the end is in no word, but
    is in the mean: that divides the surprisal of the whole text by the number of words.
    """

    text: str
    context: str | None
    window: int
    stride: int | None
    tokens: tuple[TokenScore, ...]
    words: tuple[WordScore, ...]
    boundary: Boundary = "leading"

    @property
    def bytes(self) -> int:
        return len(self.text.encode("utf-8"))

    @property
    def logprob(self) -> float:
        """Natural log-probability of the whole text."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def bits(self) -> float:
        """Surprisal of the whole text."""
        return _bits(self.logprob)

    @property
    def perplexity(self) -> float:
        return _power(self.bits / len(self.tokens))

    @property
    def word_perplexity(self) -> float | None:
        return _power(self.bits / len(self.words)) if self.words else None

    @property
    def byte_perplexity(self) -> float:
        return _power(self.bits_per_byte)

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.bytes


def _bits(logprob: float) -> float:
    return -logprob / math.log(2) + 0.0  # no negative zero


def _power(bits: float) -> float:
    return 2.0**bits if bits < 1024 else math.inf


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read. Raises `InvalidSetting`.

    `window` tokens at once (None: all that the model can), then on by `stride`: the tokens beyond
    the first window are predicted from `window - stride + 1` at least. Without a stride a text has
    to fit the window. `boundary` says which end of a word its white space is counted at.
    """

    window: int
    stride: int | None
    context: str | None = None
    special: bool | None = None
    boundary: Boundary = "leading"

    @classmethod
    def within(
        cls,
        n_ctx: int,
        window: int | None,
        stride: int | None,
        context: str | None,
        special: bool | None = None,
        boundary: Boundary = "leading",
    ) -> Reading:
        if boundary not in ("leading", "trailing"):
            raise InvalidSetting(f"boundary is leading or trailing, not {boundary!r}")
        window = n_ctx if window is None else window
        if not 1 <= window <= n_ctx:
            raise InvalidSetting(f"the window must be 1 to the context's {n_ctx}, not {window}")
        windows(0, window, window if stride is None else stride)
        return cls(window, stride, context, special, boundary)

    def cuts(self, text: str, count: int) -> Iterator[tuple[int, int, int]]:
        """The `windows` of `text`, `count` tokens with what is before. Raises `PromptTooLong`."""
        if self.stride is None and count > self.window + 1:
            raise PromptTooLong(
                f"{text[:30]!r}... is longer than the window: {count - 1} tokens with the context, "
                f"and it holds {self.window}; give a stride, such as {max(1, self.window // 2)}"
            )
        return windows(count, self.window, self.stride or self.window)


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
    context = tokenizer.encode(reading.context or "", special=reading.special)
    before = (*(tokenizer.before or (tokenizer.start_of_text,)), *context)
    # What may follow a text is asked for at a place of its own, whose token itself does not count.
    after = (tokenizer.end_of_text,) if reading.boundary == "trailing" else ()
    waiting: deque[tuple[str, Encoding, int]] = deque()  # text, tokens, number of windows
    failed: list[Gpt2rtError] = []

    def passages() -> Iterator[Passage]:
        for text in texts:
            try:
                encoding = tokenizer.encode_spans(text, special=reading.special)
                if not encoding.tokens:
                    raise BadText("a text is empty: there is nothing to score")
                every = (*before, *encoding.tokens, *after)
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
        yield _score(text, encoding, parts, tokenizer, reading)
    for error in failed:
        raise error


def _score(
    text: str,
    encoding: Encoding,
    parts: list[TokenScores],
    tokenizer: TextTokenizer,
    reading: Reading,
) -> Score:
    spans = encoding.spans
    count = len(encoding.tokens)
    logprobs = np.concatenate([part.logprobs for part in parts]).tolist()[:count]
    ranks = np.concatenate([part.ranks for part in parts]).tolist()[:count]
    places = [(part, row) for part in parts for row in range(len(part.ranks))][:count]
    best = [_alternatives(tokenizer, part, row) for part, row in places]
    scored = tuple(
        TokenScore(token, tokenizer.decode([token]), start, end, logprob, rank, alternatives)
        for token, (start, end), logprob, rank, alternatives in zip(
            encoding.tokens, spans, logprobs, ranks, best, strict=True
        )
    )
    words = word_spans(text)
    ranges = words_of(spans, words)
    bits = [_bits(math.fsum(logprobs[first:last])) for first, last in ranges]
    if reading.boundary == "trailing":
        begins = np.concatenate([part.group for part in parts]).tolist()
        spaced = [not word_spans(text[spans[first][0]]) for first, _ in ranges]
        bits = _trailing(bits, ranges, begins, spaced)
    return Score(
        text,
        reading.context,
        reading.window,
        reading.stride,
        scored,
        tuple(
            WordScore(text[start:end], start, end, first, last, surprisal)
            for (start, end), (first, last), surprisal in zip(words, ranges, bits, strict=True)
        ),
        reading.boundary,
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
    tokenizer: TextTokenizer, scores: TokenScores, row: int
) -> tuple[Alternative, ...]:
    pairs = zip(scores.top_ids[row].tolist(), scores.top_logprobs[row].tolist(), strict=True)
    return tuple(
        Alternative(token, tokenizer.decode([token]), math.exp(logprob)) for token, logprob in pairs
    )
