"""Bundles found by name, and the default one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Edit
from gpt2rt.bundles import catalog, library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.library import Damaged
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.errors import BadBundle, UnknownModel

Install = Callable[..., Bundle]


@pytest.fixture
def install(home: Path, tiny_bundles: dict[str, Bundle], edit_manifest: Edit) -> Install:
    """Puts a tiny bundle into the home directory, under a released model's name."""

    def install(model: str, precision: str, graph: str = "fused", folder: str = "") -> Bundle:
        suffix = "" if graph == "fused" else f"-{graph}"
        place = home / "bundles" / (folder or f"{model}-{precision}{suffix}")
        shutil.copytree(tiny_bundles[precision].directory, place)
        edit_manifest(Bundle.open(place), model=model, precision=precision, graph=graph)
        return Bundle.open(place)

    return install


@pytest.fixture
def no_demo(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the embedded demo, without one."""
    place = home / "embedded"
    monkeypatch.setattr(catalog, "demo_bundle", lambda: place)
    return place


def test_a_bundle_is_found_by_every_name_of_its_model(install: Install) -> None:
    bundle = install("117M", "fp32")
    for name in ("117M", "124M", "117m", "117M-fp32", "124M-fp32", "124m-FP32"):
        assert library.find(name) == bundle
    assert library.find(bundle.directory) == bundle
    assert bundle.name == "117M-fp32"


def test_a_model_without_a_precision_is_its_int8_bundle(install: Install) -> None:
    bundles = {precision: install("345M", precision) for precision in ("fp32", "int8")}
    assert library.find("345M") == library.find("355M") == bundles["int8"]
    assert library.find("345M-fp32") == bundles["fp32"]


def test_a_standard_graph_is_asked_for_by_its_full_name(install: Install) -> None:
    bundle = install("762M", "fp32", "standard")
    assert bundle.name == "762M-fp32-standard"
    assert library.find("762M-fp32-standard") == library.find("774M-fp32-standard") == bundle
    with pytest.raises(UnknownModel, match="not exported yet"):
        library.find("762M")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("117M", "`gpt2rt export 117M --int8`"),
        ("124M-fp32", "`gpt2rt export 117M --fp32`"),
        ("1558M-int8", "`gpt2rt export 1542M --int8`"),
        ("345M-fp32-standard", "`gpt2rt export 345M --graph standard`"),
        ("117M-int2", "there can be 117M-int8, 117M-fp32, 117M-fp16, 117M-int4"),
        ("118M", "did you mean 117M?"),
        ("gpt2", "`gpt2rt export 117M --int8`"),
        ("gpt5", "or name a bundle's directory"),
        ("./nowhere", "no such directory"),
        ("", "unknown model ''"),
        ("x" * 1000, "unknown model"),
    ],
)
def test_a_name_without_a_bundle_says_what_to_do(home: Path, name: str, way_out: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        library.find(name)
    assert way_out in str(caught.value)


def test_a_directory_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"no manifest\.json, so no bundle"):
        library.find(tmp_path)


def test_the_default_is_what_the_user_chose_else_117m_else_the_demo(
    install: Install,
    no_demo: Path,
    tiny_bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_bundles["int8"].directory, no_demo)
    assert library.is_embedded(library.default())
    assert library.default() == library.find("demo") == library.find("demo-int8")
    full = install("117M", "fp32")
    assert library.default() == full
    quick = install("117M", "int8")
    assert library.default() == quick
    other = install("1542M", "int8")
    monkeypatch.setenv("GPT2RT_MODEL", "1558M")
    assert library.default() == other
    monkeypatch.setenv("GPT2RT_MODEL", str(full.directory))
    assert library.default() == full
    assert not library.is_embedded(library.default())
    monkeypatch.setenv("GPT2RT_MODEL", "")
    assert library.default() == quick


def test_a_wrong_choice_in_the_environment_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("117M", "int8")
    monkeypatch.setenv("GPT2RT_MODEL", "762M")
    with pytest.raises(UnknownModel, match=r"\$GPT2RT_MODEL: 762M is not exported"):
        library.default()


def test_exported_lists_all_and_the_damaged_as_their_error(install: Install, no_demo: Path) -> None:
    good, bad = install("117M", "int8"), install("345M", "int8")
    install("762M", "int8", folder=".762M-int8.partial-x7")
    (bad.directory.parent / "no-bundle").mkdir()
    (bad.directory.parent / ".345M-int8.lock").touch()
    (bad.directory / WEIGHTS).unlink()
    first, second, demo = library.exported()
    assert first == good
    assert isinstance(second, Damaged)
    assert (second.name, second.directory) == ("345M-int8", bad.directory)
    assert str(bad.directory / WEIGHTS) in second.error
    assert isinstance(demo, Damaged)
    assert str(no_demo) in demo.error
    with pytest.raises(UnknownModel):
        library.find("762M")


def test_an_empty_home_holds_nothing_but_the_demo(
    home: Path, no_demo: Path, tiny_bundles: dict[str, Bundle]
) -> None:
    shutil.copytree(tiny_bundles["int8"].directory, no_demo)
    assert library.exported() == [Bundle.open(no_demo)]
    assert not (home / "bundles").exists()
