"""`gpt2rt bench --provider web`: the page for the browser, measured beside the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import home as home_directory
from gpt2rt.errors import InvalidSetting, ProviderMissing
from gpt2rt_bench.browser import CHROMIUM, check, parts
from gpt2rt_bench.run import planned, run


@pytest.mark.browser
@pytest.mark.slow
def test_a_page_is_measured(home: Path, demo: Bundle, package: Path) -> None:
    if not any(map(shutil.which, CHROMIUM)):
        pytest.skip("Chromium is not installed")
    kept = home_directory() / "runtimes"
    kept.mkdir(parents=True)
    shutil.copy(package, kept / package.name)
    model = str(demo.directory)
    settings = {"prompts": [9], "batches": [1, 2], "threads": [1], "steps": 6}
    plan = planned([model], providers=["cpu", "web"], **settings)  # type: ignore[arg-type]
    assert plan.left_out == ("2 prompts side by side on web: a page has one text",)
    found = {
        (row.record()["provider"], row.record()["batch"]): row.record() for row in run(plan, 1)
    }
    assert set(found) == {("cpu", 1), ("cpu", 2), ("web", 1)}
    page = found["web", 1]
    assert page["notes"] == ["computed by WebAssembly"]
    assert page["tokens_per_second"]["median"] > 0
    assert set(page["versions"]) == {"onnxruntime-web", "Chromium"}


def test_what_no_browser_runs_is_not_planned(odd_bundle: Bundle) -> None:
    with pytest.raises(InvalidSetting, match="export with --int8"):
        planned([str(odd_bundle.directory)], providers=["web"])


def test_all_has_no_page_that_needs_a_gpu(tiny_bundles: dict[str, Bundle]) -> None:
    directory = str(tiny_bundles["int4"].directory)
    plan = planned([directory], providers=["all"], prompts=[4], steps=4)
    assert any("needs a GPU for it" in sentence for sentence in plan.left_out)


def test_all_has_the_page_or_why_it_has_not(demo: Bundle, home: Path) -> None:
    """Nothing is fetched for it: the runtime is not in the new home."""
    plan = planned([str(demo.directory)], providers=["all"])
    (why,) = (sentence for sentence in plan.left_out if " on web (" in sentence)
    assert "fetches it" in why or "installed" in why or "playwright" in why


def test_steps_that_come_together_share_their_mean() -> None:
    times = [1.0, *range(2, 10), 9.0, 9.0, 12.0]
    assert [step for part in parts(times) for step in part] == [1.0] * 8 + [1.0] * 3
    assert list(parts([0.0, 3.0])) == [[3.0]]


def test_what_would_have_to_be_fetched_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2rt_bench.browser._chromium", lambda: "chromium")
    monkeypatch.setattr("gpt2rt_bench.browser.find_spec", lambda name: name)
    with pytest.raises(ProviderMissing, match="--provider web fetches it"):
        check(fetch=False)
    monkeypatch.setenv("GPT2RT_OFFLINE", "1")
    with pytest.raises(ProviderMissing, match=r"put the file there that `npm pack .*` makes"):
        check(fetch=True)
