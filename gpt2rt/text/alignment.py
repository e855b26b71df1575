"""The words of a text, as spans of characters, and the tokens that belong to each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import regex

Span = tuple[int, int]  # start, and end (exclusive)

WORD = regex.compile(r"\S+")


def word_spans(text: str) -> list[Span]:
    """The spans of the words of `text`: runs of characters other than white space."""
    return [match.span() for match in WORD.finditer(text)]


def occurrences(text: str, word: str) -> list[Span]:
    """The spans where `word` is in `text` as a whole word, in exactly this spelling."""
    return [m.span() for m in regex.finditer(rf"(?<!\w){regex.escape(word)}(?!\w)", text)]


def tokens_in(tokens: Sequence[Span], spans: Sequence[Span]) -> list[Span]:
    """For each of `spans` the tokens that overlap it, as a range of indices into `tokens`."""
    starts, ends = [start for start, _ in tokens], [end for _, end in tokens]
    return [(bisect_right(ends, start), bisect_left(starts, end)) for start, end in spans]


def words_of(tokens: Sequence[Span], words: Sequence[Span]) -> list[Span]:
    """For each of `words` its tokens, as a range of indices into `tokens`.

    A word includes the white space before it, as GPT-2's tokens do; white space at the end of the
    text belongs to no word. GPT-2 splits texts at white space first, so no token is in two words;
    an added token of several words belongs to the last of them.
    """
    ends = [end for _, end in words]
    owners = [bisect_left(ends, end) for _, end in tokens]
    firsts = [bisect_left(owners, word) for word in range(len(words) + 1)]
    return list(pairwise(firsts))
