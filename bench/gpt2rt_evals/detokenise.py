"""Undoes the tokenisation of data sets: "the cat 's tail , too ." becomes "the cat's tail, too."

Data sets for word-level models have spaces around every word. GPT-2 was trained on natural text, so
the paper scores text with those artifacts removed, by *invertible* rules: then the probability of
the natural text is a probability of the data set itself (section 3.1).

The rules are invertible for any text, not only where they are right: each line is converted back as
a check, and a word that would come back changed stays as it is after a `MARK`, which the model must
predict, too. `tokenise` of a result is always the original.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

MARK = "\\"
QUOTE = '"'


@dataclass(frozen=True, slots=True)
class Style:
    """How a data set separates words.

    `closers` stand close to the word before them, `openers` to the one after; `joiners` (with the
    character that they stand for) to both. `spelled` maps words that stand for a character to it.
    `opening` and `closing` are the data set's quotation marks, both shown as `"`. `clitics`
    matches words that belong to the one before them, such as 's; `abbreviations` matches words
    that keep their full stop.
    """

    closers: tuple[str, ...] = ("...", ".", ",", ";", ":", "!", "?", ")", "]", "}", "%")
    openers: tuple[str, ...] = ("(", "[", "{", "$", "#", "£")
    joiners: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)
    opening: str = QUOTE
    closing: str = QUOTE
    clitics: re.Pattern[str] = re.compile(r"'(?:s|m|d|ll|re|ve|S|M|D|LL|RE|VE)|[nN]'[tT]")
    abbreviations: re.Pattern[str] = re.compile(
        r"(?:[^\W\d_]\.)+|(?:No|Nos|Mr|Mrs|Ms|Dr|St|Gen|Col|Capt|Maj|Lt|Sen|Rep|Gov|Rev|Jr|Sr|Co|Inc|"
        r"Corp|Ltd|Bros|vs|al|Jan|Feb|Aug|Sept|Oct|Nov|Dec)\."
    )
    runs: str = ""  # a character that stands close to its own kind, such as = = =


WIKITEXT = Style(
    joiners={"@-@": "-", "@,@": ",", "@.@": "."},
    clitics=re.compile(r"'\w+"),
    openers=("(", "[", "{", "$", "#", "£", "₱", "¥", "€"),
    runs="=",
)
TREEBANK = Style(
    spelled={
        "-LRB-": "(",
        "-RRB-": ")",
        "-LSB-": "[",
        "-RSB-": "]",
        "-LCB-": "{",
        "-RCB-": "}",
    },
    opening="``",
    closing="''",
)
# Penn Treebank as language models know it: small letters, no punctuation, `N` for numbers.
PENN = Style(closers=("%",), abbreviations=re.compile(r"(?:[^\W\d_]\.)+"))
NEWS = Style()  # 1BW: as the treebank, but with plain quotes and brackets

_JOINED = {
    "-": re.compile(r"(?<=\w)-(?=\w)"),
    ",": re.compile(r"(?<=\d),(?=\d)"),
    ".": re.compile(r"(?<=\d)\.(?=\d)"),
}


def detokenise(line: str, style: Style) -> str:
    """One line (no newline) as people would write it; `tokenise` gives back exactly `line`."""
    words = line.split(" ")
    marked = {i for i, word in enumerate(words) if word.startswith(MARK)}
    while True:
        text = _join(words, marked, style)
        back = tokenise(text, style).split(" ")
        if back == words:
            return text
        marked |= _to_mark(words, back, marked)


def _to_mark(words: Sequence[str], back: Sequence[str], marked: Collection[int]) -> set[int]:
    """The words to mark where a line comes back as `back`: one at the first difference, or all."""
    pairs = enumerate(zip(words, back, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(words), len(back)))
    for i in (first, first - 1, first + 1):
        if 0 <= i < len(words) and words[i] and i not in marked:
            return {i}
    return {i for i, word in enumerate(words) if word}


def _join(words: Sequence[str], marked: Collection[int], style: Style) -> str:
    """The natural text of `words`; those with a number in `marked` stay as they are."""
    text, glued, quotes = [], True, 0
    for i, word in enumerate(words):
        if i in marked or not word:
            shown, left, right = (MARK + word if word else ""), False, False
        elif word in (style.opening, style.closing):
            opens = word == style.opening and (word != style.closing or quotes % 2 == 0)
            shown, left, right = QUOTE, not opens, opens
            quotes += 1
        else:
            shown = style.spelled.get(word, style.joiners.get(word, word))
            joins = word in style.joiners
            left = joins or shown in style.closers or bool(style.clitics.fullmatch(word))
            right = joins or shown in style.openers
            if word == style.runs and i > 0 and words[i - 1] == word:
                left = True
        free = i > 0 and i - 1 not in marked and words[i - 1] and i not in marked and word
        text += ["" if i == 0 or (free and (left or glued)) else " ", shown]
        glued = right
    return "".join(text)


def tokenise(text: str, style: Style) -> str:
    """The line of the data set of which `detokenise` makes `text`."""
    words: list[str] = []
    quotes = 0
    unspelled = {sign: word for word, sign in style.spelled.items()}
    for chunk in text.split(" "):
        if chunk.startswith(MARK):
            words.append(chunk[len(MARK) :])
            continue
        for word in _split(chunk, style):
            if word == QUOTE:
                words.append(style.closing if quotes % 2 else style.opening)
                quotes += 1
            else:
                words.append(unspelled.get(word, word))
    return " ".join(words)


def _split(chunk: str, style: Style) -> list[str]:
    """The words of a chunk without spaces, before their data set's spelling."""
    if chunk.isalnum():
        return [chunk]
    if style.runs and chunk and not chunk.strip(style.runs):
        return list(chunk)
    before: list[str] = []
    after: list[str] = []
    while opener := next((o for o in (*style.openers, QUOTE) if chunk.startswith(o)), None):
        before.append(opener)
        chunk = chunk[len(opener) :]
    while closer := _last(chunk, style):
        after.append(closer)
        chunk = chunk[: -len(closer)]
    words = _inside(chunk, style) if chunk else []
    return [*before, *words, *reversed(after)] or [""]


def _last(chunk: str, style: Style) -> str | None:
    if style.abbreviations.fullmatch(chunk):
        return None
    return next((c for c in (*style.closers, QUOTE) if chunk.endswith(c)), None)


def _inside(chunk: str, style: Style) -> list[str]:
    for word, sign in style.joiners.items():
        chunk = _JOINED[sign].sub(f" {word} ", chunk)
    words: list[str] = []
    for part in chunk.split(" "):
        clitic = next(
            (i for i in range(1, len(part)) if style.clitics.fullmatch(part, i)), len(part)
        )
        words += [part[:clitic], part[clitic:]] if clitic < len(part) else [part]
    return words
