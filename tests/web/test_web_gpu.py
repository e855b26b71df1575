"""The page on a GPU: WebGPU in Chromium, on an adapter that the processor plays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browsers import chromium, new_context
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.scoring.scoring import Passage
from gpt2rt_export.web import site
from page_graphs import Page as Graph
from page_graphs import logprobs
from pages import SETTINGS, WRITE, hosted, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ADAPTER = "async () => Boolean(await navigator.gpu?.requestAdapter())"
STEPS = 8  # of each text: the adapter is slow
LONG = "One winter morning, while the snow was falling, his heavy coat " * 4
PROMPTS = ["Once, in a village by the sea", "The old fisherman", LONG]
ADDED_OTHERWISE = 1e-3  # the largest difference of scores that only the order of sums makes


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    """A Chromium with a GPU."""
    with chromium("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader") as running:
        page = new_context(running).new_page()
        page.goto(f"{address}model.json")
        if not page.evaluate(ADAPTER):
            pytest.skip("this Chromium has no WebGPU adapter, not even in software")
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with new_context(browser) as context:
        yield context.new_page()


@pytest.fixture
def bare_page(browser: Browser) -> Iterator[Page]:
    """A page of a browser without WebGPU."""
    with new_context(browser) as context:
        found = context.new_page()
        found.add_init_script("delete Navigator.prototype.gpu")
        yield found


def texts(page: Page, prompts: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(
        WRITE, [prompts, SETTINGS | {"max_tokens": STEPS, "min_tokens": STEPS}]
    )
    return found


def far(gpt2: GPT2, told: dict[str, Any]) -> list[float]:
    """How far the scores of a text's tokens are from those that the runtime gives them."""
    new = [token["id"] for token in told["tokens"]]
    (scored,) = gpt2.score_tokens([Passage((*told["prompt"], *new), len(told["prompt"]))])
    own = [token["logprob"] for token in told["tokens"]]
    difference: list[float] = np.abs(np.subtract(own, scored.logprobs)).tolist()
    return difference


def fault(page: Page) -> str:
    page.get_by_role("alert").wait_for()
    return page.locator("#fault-text").text_content() or ""


def device(page: Page) -> str | None:
    opened(page)
    return page.locator("body").get_attribute("data-device")


def test_texts_and_scores(
    page: Page, demo_page: Path, demo: Bundle, gpt2: GPT2, tmp_path: Path
) -> None:
    """Those of Python, but for the rounding of rows to 8 bits; and no node runs elsewhere.

    The same graph on a processor is the measure of the sums.
    """
    place, said = tmp_path / "page", list[str]()
    shutil.copytree(demo_page, place)
    session = place / "page" / "session.js"
    verbose = session.read_text().replace("const ERRORS = 3;", "const ERRORS = 0;")
    session.write_text(verbose)
    with hosted(place) as address:
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{address}?device=webgpu")
        assert device(page) == "webgpu"
        assert "is here, by WebGPU:" in (page.locator("#state").text_content() or "")
        placed = [line for line in said if "placed on" in line]
        assert len(placed) == 1
        assert "All nodes placed on [WebGpuExecutionProvider]" in placed[0]
        processor, apart = Graph(demo, tmp_path, "webgpu"), list[float]()
        for prompt, told in zip(PROMPTS, texts(page, PROMPTS), strict=True):
            wanted = gpt2.generate(prompt, SamplingParams(temperature=0), Stopping(STEPS))
            assert told["text"] == wanted.text
            apart += far(gpt2, told)
            new, start = [token["id"] for token in told["tokens"]], len(told["prompt"])
            processor.length = 0
            wide = logprobs(processor.read([*told["prompt"], *new]))[start - 1 : -1]
            own = [token["logprob"] for token in told["tokens"]]
            np.testing.assert_allclose(own, wide[range(STEPS), new], atol=ADDED_OTHERWISE)
    assert np.mean(apart) < 0.05
    assert max(apart) < 0.2


def test_int4_runs_there_only(
    page: Page,
    bare_page: Page,
    tiny_bundles: dict[str, Bundle],
    tiny_models: dict[str, GPT2],
    package: Path,
    tmp_path: Path,
) -> None:
    site.write(tiny_bundles["int4"], tmp_path / "page", package)
    with hosted(tmp_path / "page") as address:
        page.goto(address)
        assert "has a GPU in software only" in fault(page)
        page.goto(f"{address}?device=webgpu")
        assert device(page) == "webgpu"
        (told,) = texts(page, ["abc"])
        assert max(far(tiny_models["int4"], told)) < 0.05
        bare_page.goto(address)
        assert fault(bare_page) == "This browser has no GPU (WebGPU); tiny-int4 needs one."
        bare_page.goto(f"{address}?device=wasm")
        assert fault(bare_page) == "tiny-int4 is not made for WebAssembly; leave ?device= out."


def test_an_adapter_in_software_is_not_chosen(page: Page, address: str) -> None:
    page.goto(address)
    assert device(page) == "wasm"


def test_what_is_asked_for_and_missing_is_told(bare_page: Page, address: str) -> None:
    bare_page.goto(f"{address}?device=webgpu")
    assert fault(bare_page) == "This browser has no GPU (WebGPU); ?device=webgpu asks for one."
    bare_page.goto(f"{address}?device=tpu")
    assert fault(bare_page) == "?device=tpu is not known; choose wasm or webgpu."


def test_a_gpu_that_fails_is_left(page: Page, demo_page: Path, tmp_path: Path) -> None:
    """Where nobody asked for it, the processor runs the model."""
    place, said = tmp_path / "page", list[str]()
    shutil.copytree(demo_page, place)
    script = place / "page" / "device.js"
    eager = script.read_text().replace("const SMALL = 1 << 24;", "const SMALL = 1;")
    script.write_text(eager.replace("inSoftware(adapter)", "false"))
    (place / "model" / "webgpu.onnx").write_bytes(b"damaged")
    with hosted(place) as address:
        page.on("console", lambda message: said.append(message.text))
        page.goto(address)
        assert device(page) == "wasm"
    assert any(line.startswith("The GPU does not run the model: model/webgpu") for line in said)


def test_a_gpu_that_is_gone_is_told(page: Page, demo_page: Path, tmp_path: Path) -> None:
    place = tmp_path / "page"
    shutil.copytree(demo_page, place)
    session = place / "page" / "session.js"
    run = "async run() {"
    gone = f"{run} globalThis.calls ??= 0; if (++globalThis.calls > 3) this.session.gpu.destroy();"
    session.write_text(session.read_text().replace(run, gone))
    with hosted(place) as address:
        page.goto(f"{address}?device=webgpu")
        assert device(page) == "webgpu"
        page.get_by_label("The text to go on from").fill("Odile")
        page.get_by_role("button", name="Continue").click()
        assert fault(page) == "The browser took the GPU away; load the page again."
