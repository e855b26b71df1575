"""The page for the browser: its runtime, and pages of models."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("onnx")
pytest.importorskip("pydantic")

from gpt2rt import GPT2, HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import demo_bundle
from gpt2rt_export.web import site
from gpt2rt_export.web.runtime import FILE
from models import LargerWeights, make_bundle
from page_use import Open, open_pages
from pages import hosted

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def package() -> Path:
    """The file of onnxruntime-web, which `make test` puts beside the environment."""
    place = Path(os.environ.get("GPT2RT_WEB_RUNTIME") or Path(sys.prefix, FILE))
    if not place.is_file():
        pytest.skip(f"{place} is not there: `make test` gets it with npm")
    return place


@pytest.fixture(scope="session")
def demo() -> Bundle:
    return Bundle.open(demo_bundle())


@pytest.fixture(scope="session")
def demo_page(demo: Bundle, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the demo model."""
    place = tmp_path_factory.mktemp("demo") / "page"
    assert site.write(demo, place, package)
    return place


@pytest.fixture
def odd_bundle(tmp_path: Path) -> Bundle:
    """A bundle that no browser runs: in int4, with rows that are not whole blocks."""
    hparams = HParams(n_vocab=300, n_ctx=48, n_embd=24, n_head=2, n_layer=1)
    return make_bundle(tmp_path / "odd", LargerWeights(hparams, seed=3), "int4")


@pytest.fixture(scope="session")
def gpt2(demo: Bundle) -> GPT2:
    """The demo model in Python."""
    return GPT2.load(demo.directory, threads=1)


@pytest.fixture(scope="module")
def address(demo_page: Path) -> Iterator[str]:
    """Where a server has the page of the demo model."""
    with hosted(demo_page) as found:
        yield found


@pytest.fixture
def open_page(browser: Browser, address: str, errors: list[str]) -> Iterator[Open]:
    """Opens the page of the demo model, or another."""
    with open_pages(browser, errors, address, "body[data-threads]") as start:
        yield start
