"""The page of `gpt2rt score --html`, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest

from gpt2rt import GPT2
from gpt2rt.cli.output import heatmap
from gpt2rt.corpus.rows import TextRow
from gpt2rt.scoring.score import Score

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

NASTY = (
    "</script><script>document.title = 'broken'</script>"
    "<img src=x onerror=\"document.title='hit'\">"
    "<!-- &amp; naïve 👩‍👩‍👧\r\n\ttab \\u003c __DATA__ ${1}"
)


@pytest.fixture(scope="module")
def scores(tiny_models: dict[str, GPT2]) -> list[Score]:
    texts = [NASTY, "a second text"]
    return list(tiny_models["int8"].score_batch(texts, context="be", top=5, stride=24))


@pytest.fixture(scope="module")
def window(
    scores: list[Score], browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    place = tmp_path_factory.mktemp("page")
    pairs = [
        (TextRow(number, f"text <{number}>", None, score.text), score)
        for number, score in enumerate(scores)
    ]
    (place / "page.html").write_text(heatmap.page("tiny", pairs), encoding="utf-8", newline="")
    with browser.new_page(viewport={"width": 900, "height": 700}) as page:
        page.goto((place / "page.html").as_uri())
        yield page


def test_the_text_is_shown_and_nothing_in_it_is_run(window: Page, scores: list[Score]) -> None:
    assert window.evaluate("document.title") == "gpt2rt: surprisal"
    assert window.evaluate("document.images.length + document.scripts.length") == 2
    shown = window.evaluate("""[...document.querySelectorAll(".text")].map(text => {
          const copy = text.cloneNode(true);
          for (const extra of copy.querySelectorAll(".mark, .before")) extra.remove();
          return copy.textContent; })""")
    # A carriage return is drawn as a mark, since HTML has no other way to show one.
    assert shown == [score.text.replace("\r", "") for score in scores]
    titles = window.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert titles == ["text <0>", "text <1>"]
    count = window.evaluate("document.querySelectorAll('.t').length")
    assert count == sum(len(score.tokens) for score in scores)


def test_the_page_asks_for_nothing_else(window: Page) -> None:
    assert window.evaluate("performance.getEntriesByType('resource').length") == 0


def test_pointing_at_a_token_shows_its_alternatives(window: Page, scores: list[Score]) -> None:
    token = scores[0].tokens[3]
    x, y = window.evaluate(
        """() => {
          const box = document.querySelectorAll(".t")[3].getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2]; }"""
    )
    window.mouse.move(x, y)
    assert window.evaluate("tip.hidden") is False
    said = window.evaluate("tip.textContent")
    assert f"{token.bits:.2f} bits" in said
    assert f"rank {token.rank}" in said
    assert window.evaluate("tip.querySelectorAll('tr').length") == 5
    window.mouse.move(1, 1)
    assert window.evaluate("tip.hidden") is True


def test_the_keyboard_goes_from_token_to_token(window: Page, scores: list[Score]) -> None:
    window.evaluate("document.activeElement.blur()")
    for _ in range(2):  # the switch, the first token
        window.keyboard.press("Tab")
    for token in scores[0].tokens[:4]:
        assert f"{token.bits:.2f} bits" in window.evaluate("tip.hidden ? '' : tip.textContent")
        assert window.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
        window.keyboard.press("ArrowRight")
    window.keyboard.press("Escape")
    assert window.evaluate("tip.hidden") is True


def test_the_switch_colours_by_rank(window: Page, scores: list[Score]) -> None:
    heats = """[...document.querySelectorAll(".t")].map(
      token => +token.style.getPropertyValue("--heat"))"""
    tokens = [token for score in scores for token in score.tokens]
    before = window.evaluate(heats)
    assert _in_order(before, [token.bits for token in tokens])
    x, y = window.evaluate(
        """() => {
          const box = document.querySelectorAll("fieldset label")[1].getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2]; }"""
    )
    window.mouse.click(x, y)
    after = window.evaluate(heats)
    assert _in_order(after, [token.rank or 0 for token in tokens])
    assert after != before
    assert all(0 <= heat <= 1 for heat in (*before, *after))


def _in_order(heats: list[float], values: list[float]) -> bool:
    """Whether a token of a greater value is at least as hot, and some are hotter."""
    ordered = [heat for _, heat in sorted(zip(values, heats, strict=True))]
    return ordered == sorted(ordered) and len(set(ordered)) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_is_readable(window: Page, scheme: Literal["light", "dark"]) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA) between a token and its background."""
    window.emulate_media(color_scheme=scheme)
    contrasts = window.evaluate(
        """() => {
        const light = color => color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        return [...document.querySelectorAll(".t")].map(token => {
          const style = getComputedStyle(token);
          const [a, b] = [style.color, style.backgroundColor].map(light).sort((a, b) => b - a);
          return (a + 0.05) / (b + 0.05); }); }"""
    )
    assert min(contrasts) >= 4.5
    page = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(22, 21, 19)") == (scheme == "dark")
