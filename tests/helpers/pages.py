"""Serves a page for the browser while a test runs, and asks it for texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from gpt2rt_export.web.hosting import server, url

if TYPE_CHECKING:
    from playwright.sync_api import Page

# The texts that go on from some prompts.
WRITE = """async ([prompts, settings]) => {
  const { call, stream } = await import("./page/api.js");
  const texts = [];
  for (const text of prompts) {
    const { prompt } = await call("/tokenize", { text }), events = [];
    for await (const { choices } of stream("/v1/completions", { ...settings, prompt }))
      events.push(choices[0]);
    texts.push({ prompt, text: events.map(event => event.text).join(""),
      tokens: events.flatMap(event => event.tokens), end: events.at(-1).stop_details });
  }
  return texts; }"""
SETTINGS = {
    "temperature": 0,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "typical_p": 1,
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "no_repeat_ngram": 0,
    "min_tokens": 0,
    "max_tokens": 40,
    "top_logprobs": 3,
    "return_tokens": True,
    "seed": 1,
}


@contextmanager
def hosted(directory: Path, *, isolated: bool = True) -> Iterator[str]:
    """The address of a folder while a server runs."""
    with server(directory, 0, isolated=isolated) as running:
        thread = Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield url(running)
        finally:
            running.shutdown()
            thread.join()


def opened(page: Page) -> None:
    """Wait until the model is there."""
    page.locator("body[data-threads]").wait_for(state="attached")
