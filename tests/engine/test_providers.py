"""Which provider runs a bundle, and what is said where CUDA cannot be had."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH, TAILS
from gpt2rt.engine import providers as providers_module
from gpt2rt.engine.providers import XQA, Threads, graph_of, open_session, provider_for
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda


def test_auto_is_the_cpu_where_there_is_no_cuda(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: "no such thing here")
    for bundle in tiny_bundles.values():
        assert provider_for(bundle, "auto") == provider_for(bundle, "cpu") == "cpu"
    with pytest.raises(ProviderMissing, match="CUDA cannot be had: no such thing here"):
        provider_for(tiny_bundles["fp16"], "cuda")


def test_auto_is_cuda_where_nothing_is_lost_by_it(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: None)
    chosen = {name: provider_for(bundle, "auto") for name, bundle in tiny_bundles.items()}
    assert chosen == {"fp16": "cuda", "int4": "cuda", "int8": "cuda", "fp32": "cpu"}
    assert all(provider_for(bundle, "cuda") == "cuda" for bundle in tiny_bundles.values())
    with pytest.raises(InvalidSetting, match="cpu, cuda or auto, not 'gpu'"):
        provider_for(tiny_bundles["fp16"], "gpu")
    wide = GPT2(tiny_bundles["fp32"], Threads(1), "auto")
    assert wide.provider == "cpu"
    (note,) = wide.runtime.notes
    assert re.search(r"round it to float16; `gpt2rt export .* --fp16`", note)


def test_a_standard_bundle_has_no_graph_for_cuda(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: None)
    bundle = tiny_bundles["fp32"]
    bundle = replace(bundle, manifest=replace(bundle.manifest, graph="standard", files={}))
    assert provider_for(bundle, "auto") == "cpu"
    with pytest.raises(ProviderMissing, match=r"only fused bundles.*gpt2rt export .*--fp32"):
        provider_for(bundle, "cuda")


@pytest.mark.parametrize(
    ("precision", "gone", "told"),
    [
        ("fp16", [*TAILS.values()], r"chosen by graphs.*export it again"),
        ("int8", [CUDA_GRAPH, *TAILS.values()], r"has no graph for CUDA.*export it again"),
        ("int4", [CUDA_GRAPH], r"has no graph for CUDA.*export it again"),
    ],
)
def test_auto_tells_why_a_bundle_is_not_run_on_the_cuda_that_is_there(
    precision: str,
    gone: list[str],
    told: str,
    tiny_bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lacks graphs that bundles of today have."""
    bundle = tiny_bundles[precision]
    files = {n: f for n, f in bundle.manifest.files.items() if n not in gone}
    old = replace(bundle, manifest=replace(bundle.manifest, files=files))
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: None)
    with pytest.raises(ProviderMissing, match=told):
        provider_for(old, "cuda")
    model = GPT2(old, Threads(1), "auto")
    assert model.provider == "cpu"
    (note,) = model.runtime.notes
    assert re.search(told, note)
    assert GPT2(old, Threads(1), "cpu").runtime.notes == []
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: "none here")
    assert model.runtime.notes == []


def test_flash_attention_is_asked_for_unless_the_user_chose(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2rt.engine import forks

    seen: list[str | None] = []

    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None:
            seen.append(os.environ.get(XQA))
            raise RuntimeError("seen")

    monkeypatch.setattr(forks, "ForkAwareSession", Refusing)
    monkeypatch.delenv(XQA, raising=False)
    graph = graph_of(tiny_bundles["fp16"], "cuda")
    for xqa in (False, True):
        with pytest.raises(ProviderMissing):
            open_session(graph, Threads(1), "cuda", xqa=xqa)
    with pytest.raises(BadBundle):
        open_session(graph, Threads(1), "cpu")
    assert XQA not in os.environ
    monkeypatch.setenv(XQA, "1")
    with pytest.raises(ProviderMissing):
        open_session(graph, Threads(1), "cuda")
    assert seen == ["0", None, None, "1"]
    assert os.environ[XQA] == "1"


def test_a_silent_fall_back_to_the_cpu_is_an_error(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime takes the CPU where CUDA's libraries are missing, and says so in its log."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        if providers_module.cuda_problem() is None:
            pytest.skip("this machine has CUDA")
        with pytest.raises(ProviderMissing, match=r"would have run on CPUExecutionProvider"):
            open_session(graph_of(tiny_bundles["fp16"], "cuda"), Threads(1), "cuda")
    with pytest.raises(ProviderMissing, match=r"CUDA cannot be had: .*(driver|without it|install)"):
        GPT2(tiny_bundles["fp16"], provider="cuda")


def test_auto_takes_the_cpu_where_cuda_does_not_start(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    if providers_module.cuda_problem() is None:
        pytest.skip("this machine has CUDA")
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: None)
    model = GPT2(tiny_bundles["fp16"], Threads(1), "auto")
    assert model.provider == "cpu"
    assert any("CUDA" in note for note in model.runtime.notes)
    with pytest.raises(ProviderMissing, match="CUDA"):
        GPT2(tiny_bundles["fp16"], Threads(1), "cuda")


@pytest.mark.parametrize(
    ("driver", "built", "told"),
    [(12040, "13.0", "CUDA up to 12.4"), (13000, "13.2", None), (13020, "12.8", None)],
)
def test_a_driver_that_is_too_old_is_told(driver: int, built: str, told: str | None) -> None:
    def version(pointer: Any) -> int:
        pointer._obj.value = driver
        return 0

    library: Any = SimpleNamespace(cuDriverGetVersion=version)
    problem = providers_module.driver_problem(library, built)
    assert (problem is None) if told is None else (told in (problem or ""))
