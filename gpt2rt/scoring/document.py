"""Consecutive texts, such as sentences, that are scored as one document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from gpt2rt.checks import check_kind
from gpt2rt.errors import BadText, InvalidSetting
from gpt2rt.scoring.score import Score
from gpt2rt.text.alignment import Span, words_of
from gpt2rt.text.tokenizer import check_text


@dataclass(frozen=True, slots=True)
class Document:
    """Consecutive texts, joined by `joint` and scored as one text.

    So each text is scored after those before it, with the tokens of the whole. Raises `BadText` for
    an empty text, `InvalidSetting` for a joint with
    anything but white space.
    """

    texts: tuple[str, ...]
    joint: str = " "

    def __post_init__(self) -> None:
        for text in self.texts:
            check_text(text)
            if not text:
                raise BadText("a text is empty: there is nothing to score")
        check_kind("joint", self.joint, str)
        if self.joint.strip():  # its words would be in no text
            raise InvalidSetting(f"the joint is white space or nothing, not {self.joint!r:.60}")

    @property
    def text(self) -> str:
        """The whole text."""
        return self.joint.join(self.texts)

    def parts(self, score: Score) -> list[Score]:
        """Split the score of the whole text into the scores of its texts.

        The joint belongs to the text after it, and so does a token or word that is in two texts.
        Spans are relative to each text and do not include characters before it.
        """
        starts = accumulate((len(text) + len(self.joint) for text in self.texts), initial=0)
        spans = [
            (start, start + len(text)) for start, text in zip(starts, self.texts, strict=False)
        ]
        tokens = words_of([(token.start, token.end) for token in score.tokens], spans)
        words = words_of([(word.start, word.end) for word in score.words], spans)
        return [_part(score, *place) for place in zip(spans, tokens, words, strict=True)]


def _part(score: Score, span: Span, tokens: Span, words: Span) -> Score:
    """The score of the characters `span`, with the tokens and words in these ranges."""
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
