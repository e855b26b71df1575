"""The page and `/docs`, in a real browser: by keyboard, on any screen, with any eyes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from gpt2rt.serving.settings import ServeSettings
from held_steps import HeldSteps
from page_checks import CONTRASTS, NAMELESS
from page_use import Open, begin, came, ended, expected, write
from serving import running

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


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
        page = open_page(at=f"{server.url}/", ready="dialog[open]")
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


def test_nothing_moves_for_who_does_not_want_it(open_page: Open, steps: HeldSteps) -> None:
    page = open_page(reduced_motion="reduce")
    steps.allow(3)
    begin(page, "the tree", length=1000)
    came(page, 3)
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
