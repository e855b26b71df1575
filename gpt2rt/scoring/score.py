"""The score of a text: its tokens, its words, and measures of the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Boundary = Literal["leading", "trailing"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the likeliest tokens at a position, and its probability."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The score of a token: its log-probability in nats, and its rank, 0 being the likeliest token.

    It is the characters `start` to `end` (exclusive) of the text. A character that is split over
    several tokens is in the span of each; `text` decodes the token's bytes, with U+FFFD for a part
    of a character. A token without any token before it has no score: `logprob` is NaN, `rank` None.
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
        """The surprisal in bits."""
        return bits_of(self.logprob)

    @property
    def probability(self) -> float:
        """The probability, 0 to 1."""
        return math.exp(self.logprob)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it; None for numbers of a token without a score."""
        return {
            "token": self.token,
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "logprob": known(self.logprob),
            "rank": self.rank,
            "bits": known(self.bits),
            "probability": known(self.probability),
            "alternatives": [
                {"token": other.token, "text": other.text, "probability": other.probability}
                for other in self.alternatives
            ],
        }


@dataclass(frozen=True, slots=True)
class WordScore:
    """The score of a word, a run of characters `start` to `end` (exclusive) without white space.

    `bits` is the surprisal of its tokens, with indices `first` to `last` (exclusive), including
    those of the white space before it; with the trailing boundary it is corrected as described in
    `gpt2rt.scoring.surprisal`. It is NaN if one of the tokens has no score.
    """

    text: str
    start: int
    end: int
    first: int
    last: int
    bits: float

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it; None for bits that are not known."""
        return {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "first": self.first,
            "last": self.last,
            "bits": known(self.bits),
        }


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a text: how likely the model finds it, token by token and word by word.

    Sums and means are over all tokens with a score: all but the first, if no token is before it.
    Perplexities are 2 to the power of the mean surprisal per token, word, and byte of UTF-8;
    `word_perplexity` is None for a text of white space, the others are NaN if no token has a score.
    White space at the end belongs to no word, but the mean per word includes it: it is the
    surprisal of the whole text divided by the number of words.

    Attributes:
        text: the text.
        bos: the text of the token before context and text; None: no token.
        context: the context before the text, which is not scored; None: no context.
        window: the most tokens that are read at a time.
        stride: tokens by which the window advances; None: it does not.
        boundary: the end of a word to which its white space belongs, `leading` or `trailing`.
        tokens: the score of each token.
        words: the score of each word.
        preceding: characters of the document before this text.
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
        """The length of the text in bytes of UTF-8."""
        return len(self.text.encode("utf-8"))

    @property
    def scored(self) -> tuple[TokenScore, ...]:
        """The tokens that have a score."""
        return tuple(token for token in self.tokens if token.rank is not None)

    @property
    def logprob(self) -> float:
        """The log-probability of the whole text, in nats."""
        return math.fsum(token.logprob for token in self.scored)

    @property
    def bits(self) -> float:
        """The surprisal of the whole text, in bits."""
        return bits_of(self.logprob)

    @property
    def perplexity(self) -> float:
        """The perplexity per token."""
        return _power(_mean(self.bits, len(self.scored)))

    @property
    def word_perplexity(self) -> float | None:
        """The perplexity per word, without a first word that has no score; None: no words."""
        words = [word for word in self.words if not math.isnan(word.bits)]
        if not self.words:
            return None
        first = 0 if len(words) == len(self.words) else self.words[0].last
        bits = bits_of(math.fsum(token.logprob for token in self.tokens[first:]))
        return _power(_mean(bits, len(words)))

    @property
    def byte_perplexity(self) -> float:
        """The perplexity per byte of UTF-8."""
        return _power(self.bits_per_byte)

    @property
    def bits_per_byte(self) -> float:
        """The mean surprisal per byte of UTF-8, in bits."""
        start = self.scored[0].start if self.scored else len(self.text)
        return _mean(self.bits, len(self.text[start:].encode("utf-8")))

    @property
    def totals(self) -> dict[str, Any]:
        """The measures of the whole text by their names; None where there is nothing to measure."""
        return {
            "tokens": len(self.tokens),
            "scored": len(self.scored),
            "words": len(self.words),
            "bytes": self.bytes,
            "logprob": known(self.logprob),
            "bits": known(self.bits),
            "perplexity": known(self.perplexity),
            "word_perplexity": known(self.word_perplexity),
            "byte_perplexity": known(self.byte_perplexity),
            "bits_per_byte": known(self.bits_per_byte),
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, the `totals` included."""
        return {
            "text": self.text,
            "bos": self.bos,
            "context": self.context,
            "preceding": self.preceding,
            "window": self.window,
            "stride": self.stride,
            "boundary": self.boundary,
            "totals": self.totals,
            "tokens": [token.as_dict() for token in self.tokens],
            "words": [word.as_dict() for word in self.words],
        }


def known(value: float | None) -> float | None:
    """None for what JSON has no number for: no score, or a perplexity beyond all numbers."""
    return value if value is not None and math.isfinite(value) else None


def _mean(bits: float, count: int) -> float:
    return bits / count if count else math.nan


def bits_of(logprob: float) -> float:
    """The surprisal in bits of a log-probability in nats."""
    return -logprob / math.log(2) + 0.0  # the sum turns -0.0 into 0.0


def _power(bits: float) -> float:
    return math.inf if bits >= 1024 else 2.0**bits
