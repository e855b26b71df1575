"""The page for the browser: its runtime, and pages of models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("pydantic")

from gpt2rt import HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import demo_bundle
from gpt2rt_export.web import site
from gpt2rt_export.web.runtime import FILE
from models import LargerWeights, make_bundle


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
