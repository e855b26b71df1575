"""Finds added tokens in a text, as the `tokenizers` library does: in two passes, longest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex

from gpt2rt.text.special_tokens import SpecialToken

# The characters of a word and white space, as the `tokenizers` library has them for added tokens.
LETTER = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]"
WORD_START, WORD_END = regex.compile(LETTER), regex.compile(LETTER + r"\Z")
SPACE_START, SPACE_END = regex.compile(r"\s*"), regex.compile(r"\s*\Z")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a text from character `start`: one added token, or text without any."""

    text: str
    start: int
    token: int | None


class Pass:
    """Finds added tokens in a text, at each place the longest: one pass of Hugging Face's two."""

    def __init__(self, tokens: Sequence[SpecialToken]) -> None:
        self._tokens = {token.text: token for token in tokens}
        texts = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)))
        self.control = all(token.special for token in tokens)

    def cut(self, part: Part, special: bool) -> Iterable[Part]:
        """The added tokens of `part` (control tokens where `special`) and the text between."""
        return (part,) if self.control and not special else self._cut(part, special)

    def _cut(self, part: Part, special: bool) -> Iterator[Part]:
        text, done = part.text, 0
        for found in self._pattern.finditer(text):
            token = self._tokens[found[0]]
            start, end = found.span()
            alone = not (WORD_END.search(text[:start]) or WORD_START.match(text, end))
            if (token.special and not special) or (token.single_word and not alone):
                continue
            if token.lstrip:
                start = max(done, SPACE_END.search(text[:start]).start())
            if token.rstrip:
                end = SPACE_START.match(text, end).end()
            if start >= end:
                continue  # white space that the token before it took
            if done < start:
                yield Part(text[done:start], part.start + done, None)
            first = max(start, done)
            yield Part(text[first:end], part.start + first, token.id)
            done = end
        if done < len(text):
            yield Part(text[done:], part.start + done, None)


def passes(tokens: Sequence[SpecialToken]) -> tuple[Pass, ...]:
    """The first pass and the second, where there are tokens for them."""
    groups = ([t for t in tokens if t.matched and t.normalized is n] for n in (False, True))
    return tuple(Pass(group) for group in groups if group)
