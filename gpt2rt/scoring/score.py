"""What is known of a scored text: its tokens, its words, and the figures of the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Boundary = Literal["leading", "trailing"]


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
        return bits_of(self.logprob)

    @property
    def probability(self) -> float:
        """That the model gave the token, from 0 to 1."""
        return math.exp(self.logprob)


@dataclass(frozen=True, slots=True)
class WordScore:
    """A word, a run of characters without white space: characters `start` to `end`.

    `bits` is the surprisal of its tokens, numbers `first` to `last` (not included), with those of
    the white space before it; by the trailing boundary corrected as `gpt2rt.scoring.surprisal`
    says. NaN where one of them has no score.
    """

    text: str
    start: int
    end: int
    first: int
    last: int
    bits: float


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model finds `text`, after `bos`, `context` and, in a document, what precedes.

    All sums and means are over what has a score: everything, unless nothing stands before the first
    token. Perplexities are 2 to the power of the mean surprisal per token, word and byte of UTF-8;
    `word_perplexity` is None for a text of white space, the others NaN where nothing has a score.
    White space at the end is in no word, but is in the mean: that divides the surprisal of the
    whole text by the number of words.

    Attributes:
        text: what was scored.
        bos: the text of the token that stands before all; None: nothing does.
        context: what was read before the text, unscored; None: nothing.
        window: tokens read at once.
        stride: tokens by which the window moved on; None: it did not.
        boundary: where the white space of a word counts, `leading` or `trailing`.
        tokens: the score of each token.
        words: the score of each word.
        preceding: characters of the document that were read before the text.
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
        """Bytes of the text in UTF-8."""
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
        return bits_of(self.logprob)

    @property
    def perplexity(self) -> float:
        """Per token."""
        return _power(_mean(self.bits, len(self.scored)))

    @property
    def word_perplexity(self) -> float | None:
        """Per word. The mean leaves out a first word without a score, and what of it has one."""
        words = [word for word in self.words if not math.isnan(word.bits)]
        if not self.words:
            return None
        first = 0 if len(words) == len(self.words) else self.words[0].last
        bits = bits_of(math.fsum(token.logprob for token in self.tokens[first:]))
        return _power(_mean(bits, len(words)))

    @property
    def byte_perplexity(self) -> float:
        """Per byte of UTF-8."""
        return _power(self.bits_per_byte)

    @property
    def bits_per_byte(self) -> float:
        """Mean surprisal of a byte of UTF-8."""
        start = self.scored[0].start if self.scored else len(self.text)
        return _mean(self.bits, len(self.text[start:].encode("utf-8")))


def _mean(bits: float, count: int) -> float:
    return bits / count if count else math.nan


def bits_of(logprob: float) -> float:
    return -logprob / math.log(2) + 0.0  # no negative zero


def _power(bits: float) -> float:
    return math.inf if bits >= 1024 else 2.0**bits
