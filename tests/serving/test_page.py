"""The page at `/` and the endpoints at `/docs`, in a real browser."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.generation.scheduler import Scheduler
from gpt2rt.scoring.embeddings import cosine
from gpt2rt.scoring.scoring import Passage
from gpt2rt.serving.settings import ServeSettings
from page_checks import CONTRASTS, NAMELESS, shown
from serving import RunningServer, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NASTY = (
    "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'hit'\">"
    " &amp; 👩‍👧\ttab ${1}"
)


Open = Callable[..., "Page"]
DESCRIBED = "#vectors-pooling-note:not(:empty)"  # the last thing that a page asks for at its start


@pytest.fixture
def errors() -> list[str]:
    """What browsers complain of while a test runs."""
    return []


@pytest.fixture
def open_page(browser: Browser, server: RunningServer, errors: list[str]) -> Iterator[Open]:
    """Opens a page of the server; at the end there were no errors, and no other host was asked."""
    from playwright.sync_api import expect

    expect.set_options(timeout=10_000)
    contexts: list[BrowserContext] = []
    hosts: set[str] = set()

    def start(
        path: str = "", url: str = server.url, ready: str = DESCRIBED, **settings: Any
    ) -> Page:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.extend([said.text] * (said.type == "error")))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(f"{url}/{path}")
        page.locator(ready).first.wait_for(state="attached")
        return page

    yield start
    for context in contexts:
        context.close()
    assert not errors
    assert len(hosts) <= 1


def expected(page: Page, errors: list[str], text: str) -> None:
    """The page says this error, and the browser's console has it; it may."""
    from playwright.sync_api import expect

    expect(page.get_by_role("alert")).to_contain_text(text)
    assert errors
    errors.clear()


def set_seed(page: Page, seed: int) -> None:
    page.get_by_label("Seed").fill(str(seed))
    page.get_by_label("keep it").check()


def ended(page: Page) -> None:
    """Wait until the text is written."""
    from playwright.sync_api import expect

    expect(page.locator("#go")).to_have_text("Continue")
    expect(page.locator("#again")).to_be_enabled()


def write(page: Page, prompt: str, seed: int = 7, length: int = 20) -> None:
    page.get_by_label("The text to go on from").fill(prompt)
    page.get_by_label("Length", exact=True).fill(str(length))
    set_seed(page, seed)
    page.get_by_role("button", name="Continue").click()
    ended(page)


def library(gpt2: GPT2, prompt: str | tuple[int, ...], seed: int = 7, length: int = 20) -> Any:
    """What the page's first settings give, straight from the library."""
    params = SamplingParams(top_k=40, seed=seed)
    return gpt2.generate(prompt or None, params, Stopping(length))


def in_order(heats: list[float], bits: list[float]) -> bool:
    """Whether a token of more bits is at least as hot, and some are hotter."""
    ordered = [heat for _, heat in sorted(zip(bits, heats, strict=True))]
    return ordered == sorted(ordered) and len(set(ordered)) > 1


HEATS = """selector => [...document.querySelectorAll(selector)].map(
  element => +element.style.getPropertyValue("--heat"))"""


@pytest.mark.parametrize("prompt", ["", "the tree", "naïve 👩‍👧"])
def test_a_text_is_continued_as_the_library_does(open_page: Open, gpt2: GPT2, prompt: str) -> None:
    page, wanted = open_page(), library(gpt2, prompt)
    write(page, prompt)
    assert shown(page, "#paper") == (prompt + wanted.text).replace("\r", "")
    heats = page.evaluate(HEATS, "#continuation .t")
    ids = (*wanted.prompt_tokens, *wanted.tokens)
    (scored,) = gpt2.score_tokens([Passage(ids, len(wanted.prompt_tokens))])
    assert in_order(heats, [-logprob for logprob in scored.logprobs])
    page.get_by_label("Length", exact=True).fill("5")
    page.get_by_role("button", name="Continue").click()
    ended(page)
    more = library(gpt2, ids, length=5)
    assert shown(page, "#paper") == (prompt + wanted.text + more.text).replace("\r", "")


def test_another_token_is_chosen_by_mouse(open_page: Open, gpt2: GPT2) -> None:
    page = open_page()
    write(page, "the tree")
    before = shown(page, "#paper")
    ids = library(gpt2, "the tree")
    page.locator("#continuation .t").nth(4).hover()
    options = page.locator("#tip [role=option]")
    assert options.count() == 8
    with page.expect_request("**/v1/completions") as asked:
        page.locator("[role=option][aria-selected=false]").nth(1).click()
    ended(page)
    sent = asked.value.post_data_json or {}
    kept = (*ids.prompt_tokens, *ids.tokens[:4])
    assert tuple(sent["prompt"][:-1]) == kept
    assert sent["prompt"][-1] != ids.tokens[4]
    assert page.locator("#continuation .t.taken").count() == 1
    assert page.locator("#continuation .t").count() == 25
    page.get_by_role("button", name="Back", exact=True).click()
    assert shown(page, "#paper") == before


def test_another_token_is_chosen_by_keyboard(open_page: Open) -> None:
    page = open_page()
    write(page, "the tree")
    page.locator("#continuation .t").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    token = page.locator("#continuation .t").nth(1)
    assert token.get_attribute("aria-expanded") == "true"
    assert token.get_attribute("aria-describedby") == "tip-facts"
    assert page.locator("#continuation .t[tabindex='0']").count() == 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")  # back to the token
    assert token.evaluate("token => token === document.activeElement")
    for key in ("ArrowDown", "End"):
        page.keyboard.press(key)
    chosen = page.locator("[role=option]:focus code").text_content()
    with page.expect_request("**/v1/completions"):
        page.keyboard.press("Enter")
    ended(page)
    assert page.locator("#continuation .t.taken").count() == 1
    assert token.evaluate("token => token.cell.name").replace(" ", "·")[-1:] == (chosen or "")[-1:]
    assert token.evaluate("token => token === document.activeElement")


def test_a_text_ends_before_a_stop_text(open_page: Open, gpt2: GPT2) -> None:
    """Also one that begins or ends inside a token, and of which the server holds back a part."""
    page, text = open_page(), library(gpt2, "the tree").text
    stop = next(text[at : at + 3] for at in range(4, 20) if text[at : at + 3].isprintable())
    page.get_by_text("More settings").click()
    page.get_by_label("Stop at").fill(stop)
    write(page, "the tree")
    assert shown(page, "#paper") == "the tree" + text[: text.index(stop)].replace("\r", "")
    assert json.dumps(stop, ensure_ascii=False) in (page.locator("#figures").text_content() or "")


def test_a_story_goes_on_with_another_model(open_page: Open, gpt2: GPT2) -> None:
    page, first = open_page(), library(gpt2, "the tree", seed=3, length=1)
    write(page, "the tree", seed=3, length=1)
    page.get_by_label("Model", exact=True).select_option("tiny-fp32")
    with page.expect_request("**/v1/completions") as asked:
        page.get_by_role("button", name="Continue").click()
    ended(page)
    sent = asked.value.post_data_json or {}
    assert sent["model"] == "tiny-fp32"
    assert sent["prompt"] == gpt2.tokenizer.encode("the tree" + first.text)
    page.get_by_role("button", name="Back", exact=True).click()
    assert page.locator("#continuation .t").count() == 1


def test_the_context_ends_a_story(open_page: Open, gpt2: GPT2, errors: list[str]) -> None:
    page = open_page()
    write(page, "the tree", length=1000)
    assert "the model's context is full" in (page.locator("#figures").text_content() or "")
    tokens = page.locator("#continuation .t").count()
    assert tokens + len(gpt2.tokenizer.encode("the tree")) == gpt2.hparams.n_ctx + 1
    page.get_by_role("button", name="Continue").click()
    expected(page, errors, "holds 48")
    assert page.locator("#continuation .t").count() == tokens


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts grow by 50 tokens a second at most."""
    turn = Scheduler.turn

    def wait(self: Scheduler, *resting: Any) -> Any:
        time.sleep(0.02)
        return turn(self, *resting)

    monkeypatch.setattr(Scheduler, "turn", wait)


def test_a_text_is_stopped_and_goes_on(open_page: Open, slowly: None) -> None:
    from playwright.sync_api import expect

    page = open_page()
    page.get_by_label("The text to go on from").fill("the tree")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#continuation .t").nth(2)).to_be_visible()
    assert page.locator("#go").evaluate("go => go === document.activeElement")
    page.keyboard.press("Escape")
    ended(page)
    written = page.locator("#continuation .t").count()
    assert 3 <= written < 38
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#continuation .t").nth(written)).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    ended(page)


def test_again_takes_a_new_seed_unless_it_is_kept(open_page: Open) -> None:
    page, texts = open_page(), []
    write(page, "the tree")
    for keep in (True, False):
        page.get_by_label("keep it").set_checked(keep)
        texts.append(shown(page, "#paper"))
        page.get_by_role("button", name="Again").click()
        ended(page)
    texts.append(shown(page, "#paper"))
    assert texts[0] == texts[1] != texts[2]
    assert page.get_by_label("Seed").input_value() != "7"
    page.get_by_role("button", name="Edit").click()
    assert page.get_by_label("The text to go on from").input_value() == texts[2]


def test_an_error_is_told_and_the_text_stays(open_page: Open, errors: list[str]) -> None:
    page = open_page()
    page.get_by_label("The text to go on from").fill("too long " * 40)
    page.get_by_role("button", name="Continue").click()
    expected(page, errors, "the context of tiny-int8 holds 48")
    assert page.get_by_label("The text to go on from").input_value() == "too long " * 40
    page.get_by_role("button", name="Close the message").click()
    assert page.get_by_role("alert").count() == 0


def test_settings_are_described_and_sent(open_page: Open) -> None:
    page = open_page()
    page.get_by_text("More settings").click()
    for box in page.locator("#settings input[type=number], #settings input[type=text]").all():
        note = page.locator(f"#{box.get_attribute('aria-describedby')}").text_content()
        assert note, box.get_attribute("id")
    for name, value in (("Temperature", "0.5"), ("Min p", "0.1"), ("Stop at", r"x\n\\n")):
        page.get_by_label(name).fill(value)
    with page.expect_request("**/v1/completions") as asked:
        write(page, "the tree")
    sent = asked.value.post_data_json or {}
    assert (sent["temperature"], sent["min_p"], sent["stop"]) == (0.5, 0.1, ["x\n\\n"])
    page.get_by_role("button", name="Set all back").click()
    assert page.get_by_label("Temperature", exact=True).input_value() == "1"


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


# ---- for everybody


def test_tabs_work_by_keyboard(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("tab", name="Write").focus()
    for key, name in zip(
        ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"),
        ("score", "vectors", "write", "vectors", "write", "vectors"),
        strict=True,
    ):
        page.keyboard.press(key)
        tab = page.locator("[role=tab][aria-selected=true]")
        assert tab.get_attribute("id") == f"tab-{name}"
        assert tab.evaluate("tab => tab === document.activeElement && tab.tabIndex === 0")
        assert page.get_by_role("tabpanel").count() == 1
        assert page.get_by_role("tabpanel").get_attribute("id") == name
        assert page.url.endswith(f"#{name}")
    page.reload()
    assert page.get_by_role("tabpanel").get_attribute("id") == "vectors"


def test_the_key_is_asked_for_and_kept(
    open_page: Open, serve_settings: ServeSettings, errors: list[str]
) -> None:
    from playwright.sync_api import expect

    with running(replace(serve_settings, keys=("secret",))) as server:
        page = open_page(url=server.url, ready="dialog[open]")
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_be_visible()
        expected(page, errors, "key")
        dialog.get_by_label("API key").fill("secret")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(page.locator("#model option")).to_have_count(2)
        page.reload()
        expect(page.locator("#model option")).to_have_count(2)
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []


def each_tab(page: Page) -> Iterator[str]:
    """Every tab with what it has to show."""
    write(page, "the tree")
    page.locator("#continuation .t").nth(3).focus()
    yield "write"
    page.get_by_role("tab", name="Score").click()
    page.get_by_label("Text", exact=True).fill("a tree, and the tree of the")
    page.get_by_label("Compare with").select_option("tiny-fp32")
    page.get_by_role("button", name="Score").click()
    page.locator("#score-texts .t").first.focus()
    yield "score"
    page.get_by_role("tab", name="Vectors").click()
    page.get_by_role("button", name="Compare").click()
    page.locator("#vectors-table td").first.wait_for()
    yield "vectors"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_readable(open_page: Open, scheme: Literal["light", "dark"]) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA), and a name for every control."""
    page = open_page(color_scheme=scheme)
    for tab in each_tab(page):
        poor = [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5]
        assert not poor, tab
        assert page.evaluate(NAMELESS) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(22, 21, 19)") == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_fits_its_window(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    if width < 768:
        page.get_by_text("Settings", exact=True).click()
    for tab in each_tab(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        tip = page.locator("#tip")
        if tip.is_visible():
            box = tip.bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width


def test_nothing_moves_for_who_does_not_want_it(open_page: Open, slowly: None) -> None:
    from playwright.sync_api import expect

    page = open_page(reduced_motion="reduce")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#continuation .t").nth(2)).to_be_visible()
    assert page.locator("#caret").is_visible()
    assert page.evaluate("document.getAnimations().length") == 0
    page.get_by_role("button", name="Stop").click()
    ended(page)


def test_the_endpoints_are_shown(open_page: Open, client: TestClient) -> None:
    page = open_page("docs", ready="#endpoints .card", viewport={"width": 360, "height": 800})
    api = client.get("/openapi.json").json()["paths"]
    page.locator("#endpoints .card").nth(len(api) - 1).wait_for()
    told = page.locator("#endpoints h2 code").all_text_contents()
    assert sorted(set(told)) == sorted(api)
    fields = page.locator("#post-v1-completions tbody th").all_text_contents()
    assert {"prompt", "temperature", "return_tokens"} <= set(fields)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5] == []
