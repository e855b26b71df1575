"""De-tokenised text reads as people write, and always leads back to the data set's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt_evals.detokenise import (
    MARK,
    NEWS,
    PENN,
    TREEBANK,
    WIKITEXT,
    Style,
    detokenise,
    tokenise,
)
from gpt2rt_evals.lm import natural
from models import SHARED

STYLES = {"wikitext": WIKITEXT, "treebank": TREEBANK, "penn": PENN, "news": NEWS}
# Words that rules are about, words that look like them, and marks.
LISTED = """
`` '' " ' ( ) [ ] -LRB- -RRB- a cat n't 's do . , ... .. U.S. U.S a. "a 5' \\ \\a @-@ @,@ @.@ - a-b
= == 1 1.5 1,000 $ % N <unk> (a a's s' St. Mr : ; –
"""
PARTS = LISTED.split()
LINES = st.lists(st.sampled_from([*PARTS, "", "\t", "\u00a0", "a\r"])).map(" ".join)
ANYTHING = st.text(st.characters(exclude_characters="\n"))


@pytest.mark.parametrize(
    ("style", "line", "text"),
    [
        (WIKITEXT, "a guest @-@ starring role", "a guest-starring role"),
        (WIKITEXT, "3 @.@ 5 , 1 @,@ 000 ( or so ) ; no", "3.5, 1,000 (or so); no"),
        (WIKITEXT, 'as " Craig " in " Teddy \'s Story " .', 'as "Craig" in "Teddy\'s Story".'),
        (WIKITEXT, "= = Career = =", "== Career =="),
        (WIKITEXT, "the U.S. Army .", "the U.S. Army."),
        (TREEBANK, "`` I do n't , '' said he -LRB- loud -RRB- .", '"I don\'t," said he (loud).'),
        (TREEBANK, "the King 's `` XXXXX '' !", 'the King\'s "XXXXX"!'),
        (PENN, "it was n't $ N or N % of <unk> 's", "it wasn't $N or N% of <unk>'s"),
        (NEWS, 'He said " no " : it is n\'t .', 'He said "no": it isn\'t.'),
        (PENN, "a %", "a%"),
    ],
)
def test_what_it_makes(style: Style, line: str, text: str) -> None:
    assert detokenise(line, style) == text
    assert tokenise(text, style) == line


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@given(line=LINES | ANYTHING)
def test_every_line_comes_back(style: Style, line: str) -> None:
    assert tokenise(detokenise(line, style), style) == line


@given(one=LINES | st.sampled_from(["", " ", "  ", "\\ "]), other=LINES)
def test_framed_lines_stay_apart(one: str, other: str) -> None:
    """No two lines of WikiText give the same text, blank and unframed ones included."""
    for line in (f" {one} ", one):
        assert (natural(line, WIKITEXT, True) == natural(other, WIKITEXT, True)) == (line == other)


def test_what_the_rules_get_wrong_is_marked_and_nothing_else() -> None:
    assert detokenise("the end .. of it .", WIKITEXT) == f"the end {MARK}.. of it."


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize(
    ("name", "count"),
    [("wikitext2/wiki.test.raw", 400), ("tinyshakespeare/input.txt", 4000)],
)
def test_real_lines_come_back(style: Style, name: str, count: int) -> None:
    path = SHARED / "eval" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    lines = path.read_text(encoding="utf-8").split("\n")[:count]
    assert [tokenise(detokenise(line, style), style) for line in lines] == lines


@pytest.mark.slow
def test_wikitext_comes_back_whole_with_few_marks() -> None:
    path = SHARED / "eval" / "wikitext2" / "wiki.test.raw"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    lines = path.read_text(encoding="utf-8").split("\n")
    texts = [natural(line, WIKITEXT, True) for line in lines]
    words = [word for text in texts for word in text.split(" ")]
    marks = sum(word.startswith(MARK) for word in words)
    assert marks < len(words) / 1000
    assert [tokenise(text, WIKITEXT) for text in texts[:-1]] == [
        line.strip(" ") for line in lines[:-1]
    ]
