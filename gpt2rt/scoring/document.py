"""Texts that follow each other, scored as one and told apart again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from gpt2rt.errors import BadText
from gpt2rt.scoring.score import Score
from gpt2rt.text.alignment import Span, words_of


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
