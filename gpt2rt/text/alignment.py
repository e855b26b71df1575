"""Where the words of a text lie, in characters of it, and which tokens are theirs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import regex

Span = tuple[int, int]  # from, and up to but not including

WORD = regex.compile(r"\S+")


def word_spans(text: str) -> list[Span]:
    """The words of `text`: runs of characters that are no white space to the tokenizer."""
    return [match.span() for match in WORD.finditer(text)]


def occurrences(text: str, word: str) -> list[Span]:
    """Where `word` stands in `text` as a whole word, in this very spelling."""
    return [m.span() for m in regex.finditer(rf"(?<!\w){regex.escape(word)}(?!\w)", text)]


def tokens_in(tokens: Sequence[Span], spans: Sequence[Span]) -> list[Span]:
    """The tokens that take part in each of the `spans`, as ranges of their numbers."""
    starts, ends = [start for start, _ in tokens], [end for _, end in tokens]
    return [(bisect_right(ends, start), bisect_left(starts, end)) for start, end in spans]


def words_of(tokens: Sequence[Span], words: Sequence[Span]) -> list[Span]:
    """The tokens of each word, as a range of their numbers.

    A word owns the white space before it, as GPT-2's tokens do; white space at the end of the text
    belongs to none. GPT-2 cuts texts at white space first, so no token is in two words; an added
    token of several words belongs to the last of them.
    """
    ends = [end for _, end in words]
    owners = [bisect_left(ends, end) for _, end in tokens]
    firsts = [bisect_left(owners, word) for word in range(len(words) + 1)]
    return list(pairwise(firsts))
