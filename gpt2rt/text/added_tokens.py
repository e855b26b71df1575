"""Finds added tokens in a text as the `tokenizers` library does: in two passes, longest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex

from gpt2rt.text.special_tokens import SpecialToken

# Letters and white space as the `tokenizers` library defines them for added tokens.
LETTER = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]"
WORD_START, WORD_END = regex.compile(LETTER), regex.compile(LETTER + r"\Z")
SPACE_START, SPACE_END = regex.compile(r"\s*"), regex.compile(r"\s*\Z")


@dataclass(frozen=True, slots=True)
class TextPart:
    """A part of a text, which begins at character `start`: an added token, or text without any.

    `token` is the id of the added token, None for text.
    """

    text: str
    start: int
    token: int | None


class Pass:
    """One of the two passes, which finds the longest added token at each position."""

    def __init__(self, tokens: Sequence[SpecialToken]) -> None:
        self._tokens = {token.text: token for token in tokens}
        texts = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)))
        self.control = all(token.special for token in tokens)

    def cut(self, part: TextPart, special: bool) -> Iterable[TextPart]:
        """Split `part` into added tokens and the text between them.

        Control tokens are found only if `special`.
        """
        return (part,) if self.control and not special else self._cut(part, special)

    def _cut(self, part: TextPart, special: bool) -> Iterator[TextPart]:
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
                continue  # the token before it took the white space
            if done < start:
                yield TextPart(text[done:start], part.start + done, None)
            first = max(start, done)
            yield TextPart(text[first:end], part.start + first, token.id)
            done = end
        if done < len(text):
            yield TextPart(text[done:], part.start + done, None)


def passes(tokens: Sequence[SpecialToken]) -> tuple[Pass, ...]:
    """The passes for `tokens`: at most two, none of them without tokens."""
    groups = ([t for t in tokens if t.matched and t.normalized is n] for n in (False, True))
    return tuple(Pass(group) for group in groups if group)
