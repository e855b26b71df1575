"""The page in a real browser: by keyboard, on any screen, on any host, without a connection."""

from __future__ import annotations

import shutil
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pytest

from browsers import new_context
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt_export.web import site
from page_checks import CONTRASTS, NAMELESS, shown
from page_use import Open, begin, came, ended, excuse, expected, fill, stop_at, write
from pages import hosted, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_another_token_is_chosen_by_keyboard(open_page: Open) -> None:
    page = open_page()
    fill(page, "Odile")
    page.keyboard.press("Control+Enter")
    ended(page)
    before = shown(page, "#paper")
    page.locator("#continuation .t").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "End", "Enter"):
        page.keyboard.press(key)
    ended(page)
    assert page.locator("#continuation .t.taken").count() == 1
    assert page.locator("#continuation .t").nth(2).get_attribute("class") == "t taken"
    page.get_by_role("button", name="Back", exact=True).click()
    assert shown(page, "#paper") == before


def test_a_text_is_stopped_and_goes_on(open_page: Open, gpt2: GPT2) -> None:
    page = open_page()
    whole = gpt2.generate("Odile", SamplingParams(top_k=40, seed=2), Stopping(400)).tokens
    stop_at(page, 3)
    begin(page, "Odile", seed=2, length=400)
    ended(page)
    written = page.locator("#continuation .t").count()
    assert 3 <= written < len(whole)
    page.get_by_label("Length", exact=True).fill("5")
    page.get_by_role("button", name="Continue").click()
    came(page, written + 1)
    ended(page)
    assert page.locator("#continuation .t").count() <= written + 5


def test_errors_are_told(open_page: Open, errors: list[str]) -> None:
    page = open_page()
    for text, length, told in (
        ("too long " * 600, "20", "and the model's context holds 512; shorten it"),
        ("Odile", "1.5", "max_tokens has to be 1 or more and at most 1000000, a whole number"),
    ):
        page.get_by_label("The text to go on from").fill(text)
        page.get_by_label("Length", exact=True).fill(length)
        page.get_by_role("button", name="Continue").click()
        expected(page, errors, told)
        assert page.get_by_label("The text to go on from").input_value() == text
        page.get_by_role("button", name="Close the message").click()
    excuse(page, errors)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_readable(open_page: Open, scheme: Literal["light", "dark"]) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA), and a name for every control."""
    page = open_page(color_scheme=scheme)
    write(page, "Odile")
    page.locator("#continuation .t").nth(3).focus()
    assert [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5] == []
    assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_the_page_fits_its_window(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    if width < 768:
        page.get_by_text("Settings", exact=True).click()
    write(page, "Odile")
    page.locator("#continuation .t").nth(3).focus()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# ---- what the browser and the host can do


def writes_as_python(page: Page, gpt2: GPT2) -> None:
    prompt = "Once, in a village by the sea"
    write(page, prompt)
    wanted = gpt2.generate(prompt, SamplingParams(top_k=40, seed=7), Stopping(20))
    assert shown(page, "#paper") == prompt + wanted.text


def test_it_opens_without_a_connection(
    browser: Browser, demo_page: Path, open_page: Open, gpt2: GPT2
) -> None:
    with hosted(demo_page) as address:
        page = open_page(at=address)
        page.wait_for_function("navigator.serviceWorker.controller !== null")
    page.reload()  # the server has ended
    opened(page)
    writes_as_python(page, gpt2)


def test_the_second_opening_fetches_nothing_large(open_page: Open) -> None:
    page = open_page()
    page.wait_for_function("navigator.serviceWorker.controller !== null")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    page.reload()
    opened(page)
    assert not [
        path
        for path in asked
        if path.startswith(("/model/", "/runtime/ort-wasm-simd-threaded.wasm"))
    ]


RENEWED = """async () => {
  const worker = navigator.serviceWorker;
  const renewed = new Promise(done => worker.addEventListener("controllerchange", done));
  await (await worker.ready).update();
  await renewed; }"""


def test_another_page_in_its_place_comes_at_once_but_to_who_writes(
    demo: Bundle, tiny_bundles: dict[str, Bundle], package: Path, tmp_path: Path, open_page: Open
) -> None:
    from playwright.sync_api import expect

    place = tmp_path / "page"
    site.write(tiny_bundles["int8"], place, package)
    with hosted(place) as address:
        page = open_page(at=address)
        page.wait_for_function("navigator.serviceWorker.controller !== null")
        page.get_by_label("The text to go on from").fill("Odile")
        site.write(tiny_bundles["fp16"], place, package, force=True)
        page.evaluate(RENEWED)
        assert page.get_by_label("The text to go on from").input_value() == "Odile"
        page.get_by_label("The text to go on from").fill("")
        page.reload()
        expect(page.locator("#model")).to_have_text("tiny-fp16")
        opened(page)
        site.write(demo, place, package, force=True)
        page.reload()
        expect(page.locator("#model")).to_have_text("demo-int8")
        opened(page)


def threads_of(page: Page) -> str | None:
    return page.locator("body").get_attribute("data-threads")


def test_threads_where_the_host_allows_them(open_page: Open, gpt2: GPT2) -> None:
    page = open_page("?threads=2")
    assert threads_of(page) == "2"
    writes_as_python(page, gpt2)


def test_threads_on_any_other_host(demo_page: Path, tmp_path: Path, open_page: Open) -> None:
    """The service worker adds the headers, and the page comes again by itself."""
    place = tmp_path / "page"
    shutil.copytree(demo_page, place)
    script = place / "page" / "web.js"
    patient = script.read_text().replace("const PATIENCE = 3000;", "const PATIENCE = 1e6;")
    script.write_text(patient)
    with hosted(place, isolated=False) as address:
        page = open_page("?threads=2", address)
        assert threads_of(page) == "2"


def test_any_path_of_a_host_will_do(demo_page: Path, open_page: Open) -> None:
    with hosted(demo_page.parent) as address:
        page = open_page(at=f"{address}{demo_page.name}/")
        page.wait_for_function("navigator.serviceWorker.controller !== null")
        page.reload()
        opened(page)
        write(page, "Odile")


def test_one_thread_where_there_is_no_other_way(demo_page: Path, open_page: Open) -> None:
    with hosted(demo_page, isolated=False) as address:
        page = open_page("?threads=2", address, service_workers="block")
        assert threads_of(page) == "1"
        assert "so the model runs on one." in (page.locator("#state").text_content() or "")
        write(page, "Odile")


@pytest.mark.parametrize("count", ["0", "-3", "1.5", "65", "many", ""])
def test_threads_that_cannot_be_are_told(open_page: Open, errors: list[str], count: str) -> None:
    page = open_page(f"?threads={count}", ready="")
    page.get_by_role("alert").get_by_text("is not a whole number from 1 to 64.").wait_for()
    excuse(page, errors)


OLD = "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => ({ requestAdapter }) });"


@pytest.mark.parametrize("adapter", ["return {}", "throw new Error('blocked')"])
def test_an_old_browsers_gpu_does_not_keep_it_from_starting(
    browser: Browser, address: str, adapter: str
) -> None:
    """Adapters had no `info` once, and some browsers threw where theirs was blocked."""
    with new_context(browser) as context:
        page = context.new_page()
        page.add_init_script(f"const requestAdapter = async () => {{ {adapter}; }}; {OLD}")
        page.goto(address)
        opened(page)


def test_who_writes_early_gets_an_answer(open_page: Open, errors: list[str]) -> None:
    """The text once the model is there, or why it is not."""
    page, uncaught = open_page(ready=""), list[str]()
    page.on("pageerror", lambda error: uncaught.append(str(error)))
    page.add_init_script(
        "const ask = fetch; fetch = async (...all) => {"
        " await new Promise(done => setTimeout(done, 500)); return ask(...all); }"
    )
    page.reload()
    write(page, "Odile")
    page.goto(page.url + "?device=tpu")
    page.get_by_label("The text to go on from").fill("Odile")
    page.get_by_role("alert").get_by_text("?device=tpu is not known").wait_for()
    page.get_by_role("button", name="Close the message").click()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("alert").get_by_text("?device=tpu is not known").wait_for()
    assert not uncaught
    excuse(page, errors)


def test_a_connection_that_breaks_off_is_told(
    open_page: Open, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: SimpleHTTPRequestHandler, source: IO[bytes], output: IO[bytes]) -> None:
        if self.path.startswith("/model/weights.bin"):
            output.write(source.read(1000))
        else:
            shutil.copyfileobj(source, output)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", half)
    page = open_page(ready="")
    page.get_by_role("alert").get_by_text("weights.bin came in part only").wait_for()
    monkeypatch.undo()
    page.reload()
    opened(page)
    excuse(page, errors)


def test_what_the_page_knows_may_be_damaged(
    demo_page: Path, tmp_path: Path, open_page: Open, errors: list[str]
) -> None:
    shutil.copytree(demo_page, tmp_path / "page")
    about = tmp_path / "page" / "model.json"
    with hosted(tmp_path / "page") as address:
        about.write_text("{")
        page = open_page(at=address, ready="", service_workers="block")
        page.get_by_role("alert").get_by_text("model.json is damaged").wait_for()
        about.unlink()
        page.reload()
        page.get_by_role("alert").get_by_text("model.json cannot be fetched (404)").wait_for()
    excuse(page, errors)


def test_an_old_browser_is_told(open_page: Open, errors: list[str]) -> None:
    page = open_page("?old", ready="")
    page.add_init_script("WebAssembly.validate = () => false")
    page.reload()
    page.get_by_role("alert").get_by_text("no SIMD").wait_for()
    excuse(page, errors)


def test_a_damaged_file_is_told(
    demo_page: Path, tmp_path: Path, open_page: Open, errors: list[str]
) -> None:
    shutil.copytree(demo_page, tmp_path / "page")
    weights = tmp_path / "page" / "model" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with hosted(tmp_path / "page") as address:
        page = open_page(at=address, ready="")
        page.get_by_role("alert").get_by_text("weights.bin is not the file").wait_for()
        weights.unlink()
        page.reload()
        page.get_by_role("alert").get_by_text("weights.bin cannot be fetched (404)").wait_for()
    excuse(page, errors)
