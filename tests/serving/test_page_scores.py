"""The page's scores and vectors, in a real browser: those of the library."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("fastapi")

from gpt2rt import GPT2, EmbedParams
from gpt2rt.scoring.embeddings import cosine
from page_checks import shown
from page_use import HEATS, Open, expected, in_order

pytestmark = [pytest.mark.browser, pytest.mark.slow]


NASTY = (
    "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'hit'\">"
    " &amp; 👩‍👧\ttab ${1}"
)


def test_a_text_is_scored(open_page: Open, tiny_models: dict[str, GPT2]) -> None:
    page, text = open_page("#score"), f"a naïve {NASTY}"[:60]
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_label("After the context").fill("be")
    page.get_by_label("Stride").fill("24")
    page.get_by_label("Compare with").select_option("tiny-fp32")
    page.get_by_role("button", name="Score").click()
    cards = page.locator("#score-texts .card")
    cards.nth(1).wait_for()
    for index, name in enumerate(("int8", "fp32")):
        score = tiny_models[name].score(text, context="be", stride=24)
        card = f"#score-texts .card:nth-child({index + 1})"
        assert shown(page, f"{card} .t") == text
        heats = page.evaluate(HEATS, f"{card} .t")
        assert in_order(heats, [token.bits for token in score.tokens])
        told = cards.nth(index).locator("dd").first.text_content() or ""
        assert float(told.replace(",", "")) == pytest.approx(score.perplexity, rel=1e-3)
    page.locator("#score-texts .card .t").nth(3).hover()
    assert page.locator("#score-texts .card:nth-child(2) .twin").count() >= 1
    assert page.locator("#tip li").count() == 8
    page.get_by_role("radio", name="tokens").focus()
    page.keyboard.press("ArrowRight")
    score = tiny_models["int8"].score(text, context="be", stride=24)
    card = "#score-texts .card:nth-child(1)"
    assert page.locator(f"{card} .t").count() == len(score.words)
    assert in_order(page.evaluate(HEATS, f"{card} .t"), [word.bits for word in score.words])
    assert page.title() == "gpt2rt"


def test_words_are_compared_in_context(open_page: Open, gpt2: GPT2, errors: list[str]) -> None:
    page = open_page("#vectors")
    sentences = ["a bank of <b>the</b> 👩‍👧 bank", "the bank!"]
    page.get_by_label("Sentences").fill("\n\n".join(sentences))
    page.get_by_label("Layer").fill("2")
    page.get_by_role("button", name="Compare").click()
    page.locator("#vectors-table td").first.wait_for()
    params = EmbedParams(layer=2, by="word", word="bank")
    vectors = [v for e in gpt2.embed_batch(sentences, params) for v in e.vectors]
    cells = page.locator("#vectors-table tbody td").all_text_contents()
    for cell, (a, b) in zip(cells, ((a, b) for a in vectors for b in vectors), strict=True):
        assert cell == "" if a is b else float(cell) == pytest.approx(cosine(a, b), abs=2e-3)
    marked = page.locator("#vectors-list mark").all_text_contents()
    assert marked == ["bank"] * 3
    told = page.locator("#vectors-list li > span:nth-child(2)").all_text_contents()
    assert told == [sentences[0], sentences[0], sentences[1]]
    page.locator("[data-pair='1 3']").hover()
    assert page.locator("#vectors-list .near .number").all_text_contents() == ["1", "3"]
    page.get_by_label("Word", exact=True).fill("river")
    page.get_by_role("button", name="Compare").click()
    expected(page, errors, "'river' is no word of the text")


def test_points_lie_as_far_apart_as_the_vectors(open_page: Open) -> None:
    """Three unit vectors span a plane, so the picture has their distances exactly."""
    page = open_page("#vectors")
    page.get_by_label("Sentences").fill("a bank\nthe old bank\nto the bank of it")
    page.get_by_role("button", name="Compare").click()
    page.locator("#vectors-map circle").nth(2).wait_for()
    points = page.evaluate(
        """[...document.querySelectorAll("#vectors-map circle")].map(
          circle => [+circle.getAttribute("cx"), +circle.getAttribute("cy")])"""
    )
    cells = page.locator("#vectors-table tbody td").all_text_contents()
    pairs = ((0, 1), (0, 2), (1, 2))
    wanted = [math.sqrt(2 - 2 * float(cells[3 * a + b])) for a, b in pairs]
    found = [math.dist(points[a], points[b]) for a, b in pairs]
    ratios = np.divide(found, wanted)
    assert ratios == pytest.approx([ratios[0]] * 3, rel=0.02)
