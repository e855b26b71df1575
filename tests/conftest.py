"""Small models for the tests, each made once a run and without TensorFlow where it can be."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from browsers import chromium
from command_line import Command, Edit, Ended
from gpt2rt import GPT2
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import MANIFEST
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.cli import main
from models import SHARED, TINY, LargerWeights, make_bundle
from ray_variables import keep_others_out

if TYPE_CHECKING:
    from playwright.sync_api import Browser

keep_others_out()

# No law is about time, and the machine may be busy.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")

# Tests send Ctrl-C to children, who would inherit that a shell's background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_user_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the bundles of whoever runs it: they may be of another release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2RT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("GPT2RT_MODEL", raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_weights() -> LargerWeights:
    return LargerWeights(TINY, seed=7)


@pytest.fixture(scope="session")
def tiny_bundles(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: LargerWeights
) -> dict[str, Bundle]:
    """The tiny model in every precision."""
    home = tmp_path_factory.mktemp("tiny")
    return {name: make_bundle(home / name, tiny_weights, name) for name in PRECISIONS}


@pytest.fixture(scope="session")
def tiny_models(tiny_bundles: dict[str, Bundle]) -> dict[str, GPT2]:
    return {name: GPT2.load(bundle.directory, threads=1) for name, bundle in tiny_bundles.items()}


@pytest.fixture(params=sorted(PRECISIONS))
def tiny(request: pytest.FixtureRequest, tiny_models: dict[str, GPT2]) -> GPT2:
    """The tiny model, in one precision after the other."""
    return tiny_models[request.param]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with nothing in it."""
    monkeypatch.setenv("GPT2RT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPT2RT_MODEL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def edit_manifest() -> Callable[..., None]:
    """Rewrites fields of a bundle's manifest, with a digest that fits."""

    def edit(bundle: Bundle, **changes: object) -> None:
        text = replace(bundle.manifest, **changes).to_json()  # type: ignore[arg-type]
        (bundle.directory / MANIFEST).write_text(text)

    return edit


@pytest.fixture(scope="session")
def real_vocabulary() -> Path:
    directory = SHARED / "gpt2-vocab"
    if not (directory / "encoder.json").is_file():
        pytest.skip(f"{directory / 'encoder.json'} is not there")
    return directory


# ---- the command line


@pytest.fixture
def command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Command:
    """Runs the command line in this process, with nothing exported and no demo."""
    monkeypatch.setattr(catalog, "demo_bundle", lambda: home / "embedded")
    monkeypatch.setattr("gpt2rt.engine.providers.physical_cores", lambda: 1)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["gpt2rt", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsysbinary.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Ended(code, out.decode(), err.decode())

    return run


@pytest.fixture
def model(tiny_bundles: dict[str, Bundle]) -> Path:
    return tiny_bundles["int8"].directory


@pytest.fixture
def gpt2(tiny_models: dict[str, GPT2]) -> GPT2:
    """The model of the directory `model`."""
    return tiny_models["int8"]


@pytest.fixture
def bundle(model: Path, tmp_path: Path) -> Bundle:
    """A copy of a bundle, to be damaged."""
    shutil.copytree(model, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def exported(home: Path, model: Path, edit_manifest: Edit) -> Callable[[str], Bundle]:
    """Puts the tiny bundle under a released model's name into the home directory."""

    def install(name: str) -> Bundle:
        place = home / "bundles" / f"{name}-int8"
        shutil.copytree(model, place)
        edit_manifest(Bundle.open(place), model=name)
        return Bundle.open(place)

    return install


# ---- a real browser


@pytest.fixture
def errors() -> list[str]:
    """What browsers complain of while a test runs."""
    return []


# Not for the whole session: while Playwright is there, so is its event loop, beside which no other
# can run in the same thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium() as running:
        yield running
