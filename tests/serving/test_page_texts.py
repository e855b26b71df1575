"""Texts on the page, in a real browser: the library's; stopped, chosen and continued."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi")

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.scoring.scoring import Passage
from held_steps import HeldSteps
from page_checks import shown
from page_use import HEATS, Open, begin, came, ended, expected, in_order, write
from serving import RunningServer, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def library(gpt2: GPT2, prompt: str | tuple[int, ...], seed: int = 7, length: int = 20) -> Any:
    """What the page's first settings give, straight from the library."""
    params = SamplingParams(top_k=40, seed=seed)
    return gpt2.generate(prompt or None, params, Stopping(length))


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


def test_a_text_is_stopped_and_goes_on(
    open_page: Open, server: RunningServer, steps: HeldSteps
) -> None:
    page = open_page()
    steps.allow(3)
    begin(page, "the tree", length=1000)
    came(page, 3)
    assert page.locator("#go").evaluate("go => go === document.activeElement")
    page.keyboard.press("Escape")
    ended(page)
    assert page.locator("#continuation .t").count() == 3
    steps.allow()
    wait_until(lambda: server.service.in_flight == 0)
    steps.hold()
    steps.allow(3)
    page.get_by_role("button", name="Continue").click()
    came(page, 4)
    page.get_by_role("button", name="Stop").click()
    ended(page)


def test_again_takes_a_new_seed_unless_it_is_kept(open_page: Open, gpt2: GPT2) -> None:
    page = open_page()
    page.evaluate("() => { crypto.getRandomValues = numbers => numbers.fill(11); }")
    write(page, "the tree")
    for keep, seed in ((True, 7), (False, 11)):
        page.get_by_label("keep it").set_checked(keep)
        page.get_by_role("button", name="Again").click()
        ended(page)
        text = "the tree" + library(gpt2, "the tree", seed).text
        assert shown(page, "#paper") == text
        assert page.get_by_label("Seed").input_value() == str(seed)
    page.get_by_role("button", name="Edit").click()
    assert page.get_by_label("The text to go on from").input_value() == text


def test_a_seed_that_is_typed_is_kept(open_page: Open) -> None:
    page, seed = open_page(), "5"
    keep, box = page.get_by_label("keep it"), page.get_by_label("Seed")
    assert not keep.is_checked()
    box.fill(seed)
    assert keep.is_checked()
    page.get_by_role("button", name="Continue").click()
    ended(page)
    assert box.input_value() == seed
    box.fill("")
    assert not keep.is_checked()


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
