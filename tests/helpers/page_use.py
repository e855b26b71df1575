"""Opens pages in a real browser and writes texts on them, as a user does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from browsers import LIMIT, new_context

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

Open = Callable[..., "Page"]

# The heat of every token of a selector.
HEATS = """selector => [...document.querySelectorAll(selector)].map(
  element => +element.style.getPropertyValue("--heat"))"""

STOP_AT = """count => new MutationObserver((_, observer) => {
  if (document.querySelectorAll("#continuation .t").length < count) return;
  observer.disconnect();
  const escape = new KeyboardEvent("keydown", { key: "Escape", bubbles: true });
  document.activeElement.dispatchEvent(escape);
}).observe(document.querySelector("#continuation"), { childList: true })"""


@contextmanager
def open_pages(browser: Browser, errors: list[str], address: str, ready: str) -> Iterator[Open]:
    """What opens pages below an address; at the end there were no errors, and no other host was
    asked.

    A page is open when it has an element `ready`; `errors` gets what browsers complain of.
    """
    contexts: list[BrowserContext] = []
    hosts: set[str] = set()

    def start(path: str = "", at: str = address, ready: str = ready, **settings: Any) -> Page:
        contexts.append(new_context(browser, **settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.extend([said.text] * (said.type == "error")))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(at + path)
        if ready:
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
    until = time.monotonic() + LIMIT
    while not errors and time.monotonic() < until:
        page.wait_for_timeout(10)
    assert errors
    errors.clear()


def excuse(page: Page, errors: list[str]) -> None:
    """The last of a page, whose browser may have complained of what was done to it."""
    page.context.close()
    errors.clear()


def ended(page: Page) -> None:
    """Wait until the text is written."""
    from playwright.sync_api import expect

    expect(page.locator("#go")).to_have_text("Continue")
    expect(page.locator("#again")).to_be_enabled()


def write(page: Page, prompt: str, seed: int = 7, length: int = 20) -> None:
    begin(page, prompt, seed, length)
    ended(page)


def begin(page: Page, prompt: str, seed: int = 7, length: int = 20) -> None:
    fill(page, prompt, seed, length)
    page.get_by_role("button", name="Continue").click()


def fill(page: Page, prompt: str, seed: int = 7, length: int = 20) -> None:
    page.get_by_label("The text to go on from").fill(prompt)
    page.get_by_label("Length", exact=True).fill(str(length))
    page.get_by_label("Seed").fill(str(seed))


def came(page: Page, count: int) -> None:
    """Wait until so many tokens are there; some, as a line's end, are never visible."""
    page.locator("#continuation .t").nth(count - 1).wait_for(state="attached")


def stop_at(page: Page, count: int) -> None:
    """Escape is pressed as soon as so many tokens are there, however slow the test is."""
    page.evaluate(STOP_AT, count)


def in_order(heats: list[float], bits: list[float]) -> bool:
    """Whether a token of more bits is at least as hot, and some are hotter."""
    ordered = [heat for _, heat in sorted(zip(bits, heats, strict=True))]
    return ordered == sorted(ordered) and len(set(ordered)) > 1
