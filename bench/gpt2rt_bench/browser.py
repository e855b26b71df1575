"""The worker of the page for the browser: `python -m gpt2rt_bench.browser '{"bundle": ..., ...}'`.

A bundle's page is written into a folder for the time, and Chromium opens it, without a window. What
is timed is what a reader of the page sees: the time from a request to each of its tokens. So the
choice of a token is included, and its way from the page's worker to the page.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

from gpt2rt.errors import DownloadFailure, Gpt2rtError, ProviderMissing
from gpt2rt_bench.protocol import Answer, Ready, Respond, Tokens, serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from gpt2rt_bench.cases import Configuration

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Root, as in a container, has no sandbox; on Linux Chromium has WebGPU only if asked.
SWITCHES = ("--no-sandbox", "--enable-unsafe-webgpu", "--enable-features=Vulkan")
DEVICES = {"wasm": "WebAssembly", "webgpu": "WebGPU"}
TOGETHER = 8  # steps
PATIENCE = 120_000  # ms until a model is open

WRITE = """async ([prompt, steps]) => {
  const { stream } = await import("./page/api.js"), tokens = [];
  const body = { prompt, temperature: 0, top_k: 0, top_p: 1, min_p: 0, typical_p: 1,
    repetition_penalty: 1, frequency_penalty: 0, presence_penalty: 0, no_repeat_ngram: 0,
    max_tokens: steps, min_tokens: steps };
  const another = { ...body, prompt: [(prompt[0] + 1) % 2], max_tokens: 1 };
  for await (const _ of stream("/v1/completions", another));  // nothing of the prompt is kept now
  const times = [performance.now()];
  for await (const { choices } of stream("/v1/completions", body)) {
    times.push(performance.now());
    tokens.push(choices[0].tokens[0].id);
  }
  return [times, tokens]; }"""


def command(bundle: Path, configuration: Configuration) -> list[str]:
    """The command that starts the worker of a configuration."""
    settings = {"bundle": str(bundle), "threads": configuration.threads}
    return [sys.executable, "-m", "gpt2rt_bench.browser", json.dumps(settings)]


def check(*, fetch: bool) -> None:
    """Get what a page needs here: a browser, what drives it, and the runtime.

    Raises `ProviderMissing` for what is missing; the runtime may be fetched only if `fetch`.
    """
    from gpt2rt_export.fetch.network import Network
    from gpt2rt_export.progress import NoProgress
    from gpt2rt_export.web import runtime

    if _chromium() is None:
        raise ProviderMissing(f"none of {', '.join(CHROMIUM)} is installed")
    if find_spec("playwright") is None:
        raise ProviderMissing('no playwright: pip install "playwright"')
    network = Network.chosen() if fetch else Network(offline=True)
    try:
        runtime.runtime(None, network, NoProgress())
    except DownloadFailure as error:
        missing = str(error) if fetch else f"no {runtime.PACKAGE} yet: --provider web fetches it"
        raise ProviderMissing(missing) from None


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def load(page: Page, threads: int, address: str) -> tuple[Ready, Respond]:
    """Open the page of a bundle; returns also the function that answers requests."""
    from gpt2rt_export.web.runtime import VERSION

    page.goto(f"{address}?threads={threads}")
    page.locator("body[data-device], #fault:not([hidden])").wait_for(timeout=PATIENCE)
    device, told = page.locator("body").get_attribute("data-device"), page.locator("#fault-text")
    if device is None:
        raise Gpt2rtError(f"the page: {told.text_content()}")
    browser = page.context.browser
    assert browser is not None
    about = page.evaluate("fetch('model.json').then(response => response.json())")
    ready = Ready(
        provider="web",
        precision=about["precision"],
        versions={"onnxruntime-web": VERSION, "Chromium": browser.version},
        notes=[f"computed by {DEVICES[device]}"],
    )

    def respond(prompts: list[Tokens], steps: int) -> Answer:
        (prompt,) = prompts
        times, tokens = page.evaluate(WRITE, [prompt, steps])
        start, *arrived = times
        decode = [step for part in parts(arrived) for step in part]
        return Answer(arrived[0] - start, decode, [tokens], peak_bytes=memory())

    return ready, respond


def parts(times: list[float]) -> Iterator[list[float]]:
    """The steps between some times, in parts whose steps share their mean: a page that falls behind
    gets several tokens at once."""
    for at in range(0, len(times) - 1, TOGETHER):
        part = times[at : at + TOGETHER + 1]
        count = len(part) - 1
        yield [(part[-1] - part[0]) / count] * count


def memory() -> int:
    """Bytes that the browser's largest process, which has the page, holds by itself now."""
    import psutil

    processes = psutil.Process().children(recursive=True)
    return max((process.memory_full_info().uss for process in processes), default=0)


@contextmanager
def opened(bundle: str) -> Iterator[tuple[Page, str]]:
    """A new page of Chromium, and the address of the bundle's own, where `check` passes."""
    from playwright.sync_api import sync_playwright

    from gpt2rt.bundles.bundle import Bundle
    from gpt2rt_export.fetch.network import Network
    from gpt2rt_export.progress import NoProgress
    from gpt2rt_export.web import hosting, runtime, site

    package = runtime.runtime(None, Network.chosen(), NoProgress())
    with TemporaryDirectory() as folder, sync_playwright() as started:
        site.write(Bundle.open(Path(bundle)), Path(folder, "page"), package)
        with hosting.server(Path(folder, "page"), 0) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            browser = started.chromium.launch(executable_path=_chromium(), args=SWITCHES)
            yield browser.new_page(), hosting.url(server)
            browser.close()
            server.shutdown()


def main(settings: dict[str, Any]) -> None:
    """Answer requests until the input ends."""
    with ExitStack() as place:

        def start() -> tuple[Ready, Respond]:
            page, address = place.enter_context(opened(settings["bundle"]))
            return load(page, settings["threads"], address)

        serve(start)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
