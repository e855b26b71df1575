"""Providers of the table: what is said where one cannot be had, and what runs where one can.

A stand-in, which is the CPU by another name, takes the whole way of a provider that is not here.
WebGPU really runs, on Chromium's software driver for Vulkan, where its plug-in is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from gpt2rt import GPT2, Bundle, SamplingParams, Stopping
from gpt2rt.bundles.manifest import PORTABLE_GRAPH
from gpt2rt.cli import completion
from gpt2rt.engine import execution, plugins
from gpt2rt.engine.execution import compiled, open_on
from gpt2rt.engine.placement import Placement, placement
from gpt2rt.engine.plugins import devices, place_of, runtime_version
from gpt2rt.engine.provider_table import ALL, TABLE, WHOLE_ROW, Provider, Wish
from gpt2rt.engine.providers import PROVIDERS, Threads
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing

STAND_IN = Provider("stand-in", "CPUExecutionProvider", "portable", "onnxruntime", few_shapes=True)
GREEDY, SOME = SamplingParams(temperature=0), Stopping(length=12)
CHROMIUM = Path("/usr/lib/chromium")
SWIFTSHADER = CHROMIUM / "vk_swiftshader_icd.json"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setitem(TABLE, STAND_IN.name, STAND_IN)
    return STAND_IN


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """The row of OpenVINO, with a plug-in that registers and finds what the test says."""
    row = TABLE["openvino"]
    module = SimpleNamespace(get_library_path=lambda: "libplugin.so")
    monkeypatch.setattr(plugins, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, row.plugin, module)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *_: None, raising=False)
    plugins.register.cache_clear()
    yield row
    plugins.register.cache_clear()


def device(kind: str, name: str = TABLE["openvino"].runtime_name) -> SimpleNamespace:
    hardware = SimpleNamespace(
        type=SimpleNamespace(name="GPU"), vendor="Maker", metadata={"Description": f"a {kind}"}
    )
    return SimpleNamespace(ep_name=name, ep_metadata={"ov_device": kind}, device=hardware)


# ---- the table


def test_every_row_says_how_it_is_had() -> None:
    assert [*TABLE][:2] == [*PROVIDERS]
    for name, row in TABLE.items():
        assert row.name == name
        assert row.graph in ("fused", "cuda", "portable")
        assert row.runtime_name.endswith("ExecutionProvider")
        assert set(row.precisions) <= set(ALL)
        assert 0 <= row.most_elsewhere < 1
        assert row.systems
        assert row.needs or name in PROVIDERS
        wish = Wish("gpu", 1, False, 2, "int8", Path("cache"))
        assert all(isinstance(value, str) for value in row.options(wish).values())
    assert completion.providers("c") == ["cpu", "cuda", "coreml"]


def test_openvino_rounds_activations_with_8_bit_weights_only() -> None:
    for precision, group in (("int8", str(WHOLE_ROW)), ("int4", "0"), ("fp32", "0")):
        wish = Wish("cpu", 0, True, 3, precision, Path("cache"))
        options = TABLE["openvino"].options(wish)
        settings = json.loads(options["load_config"])["CPU"]
        assert settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == group
        assert settings["INFERENCE_PRECISION_HINT"] == "f32"
        assert settings["INFERENCE_NUM_THREADS"] == "3"
        assert options["device_type"] == "CPU"
        assert options["cache_dir"] == "cache"


def test_the_plug_in_of_openvino_has_its_options_in_one() -> None:
    options = TABLE["openvino"].options(Wish("gpu", 0, False, 3, "fp16", Path("cache")))
    assert set(options) == {"load_config"}
    assert json.loads(options["load_config"])["GPU"]["CACHE_DIR"] == "cache"


def test_what_is_compiled_is_kept_by_version(home: Path) -> None:
    place = compiled(STAND_IN)
    assert place == home / "compiled" / f"stand-in-{ort.__version__}"
    assert not place.exists()
    assert compiled(TABLE["openvino"]).is_dir()


# ---- what cannot be had


@pytest.mark.parametrize("wrong", ["gpu", "openvin", "", "auto:gpu", None, 3])
def test_an_unknown_provider(wrong: Any, tiny_bundles: dict[str, Bundle]) -> None:
    with pytest.raises(InvalidSetting, match=r"provider is cpu, cuda, openvino, .*coreml or auto"):
        GPT2(tiny_bundles["fp32"], Threads(1), wrong)


def test_a_plug_in_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        ProviderMissing, match=r'webgpu is not installed: .*"gpt2rt\[webgpu\]"; it needs a GPU'
    ):
        devices(TABLE["webgpu"])


def test_a_provider_of_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ProviderMissing, match="coreml is for macOS"):
        devices(TABLE["coreml"])
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ProviderMissing, match="without directml; install onnxruntime-directml"):
        devices(TABLE["directml"])


def test_a_plug_in_for_another_onnx_runtime(
    plugin: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(name: str, library: str) -> None:
        raise RuntimeError(f"{library} wants\nversion 99")

    monkeypatch.setattr(ort, "register_execution_provider_library", register)
    told = r"cannot be used with ONNX Runtime [\d.]+ \(libplugin.so wants version 99\); upgrade"
    for _ in range(2):  # an error is not remembered
        with pytest.raises(ProviderMissing, match=told):
            devices(plugin)


@pytest.mark.parametrize(
    ("name", "least", "older"), [("openvino", "1.24", "1.23.2"), ("webgpu", "1.31", "1.30.0")]
)
def test_an_onnx_runtime_that_is_too_old_for_a_plug_in(
    name: str, least: str, older: str, plugin: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "__version__", older)
    told = rf'{name} needs .* {least} or later, .* is {older}; .*: pip install "gpt2rt\[{name}\]"'
    with pytest.raises(ProviderMissing, match=told):
        devices(TABLE[name])


def test_a_device_that_is_not_there(plugin: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[SimpleNamespace] = []
    monkeypatch.setattr(ort, "get_ep_devices", lambda: found, raising=False)
    with pytest.raises(ProviderMissing, match="finds no device on this machine; it needs an Intel"):
        devices(plugin)
    found += [device("CPU"), device("GPU"), device("GPU"), device("NPU", "Another")]
    assert [each.name for each in devices(plugin)] == ["cpu", "gpu", "gpu.1"]
    assert str(place_of("openvino")) == "openvino:cpu"
    assert place_of("openvino:gpu.1").device.number == 1
    with pytest.raises(
        InvalidSetting, match=r"no device 'npu' here; there is openvino:cpu, .*gpu.1"
    ):
        place_of("openvino:npu")


def test_a_bundle_that_it_does_not_take(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLE, "picky", replace(STAND_IN, name="picky", precisions=("fp16",)))
    with pytest.raises(ProviderMissing, match=r"picky takes bundles in fp16; .* is int8"):
        open_on(tiny_bundles["int8"], "picky", Threads(1))


def test_a_bundle_of_before(stand_in: Provider, tiny_bundles: dict[str, Bundle]) -> None:
    manifest = tiny_bundles["int8"].manifest
    files = {name: file for name, file in manifest.files.items() if name != PORTABLE_GRAPH}
    old = replace(tiny_bundles["int8"], manifest=replace(manifest, files=files))
    with pytest.raises(BadBundle, match="made before bundles ran on stand-in; export it again"):
        open_on(old, "stand-in", Threads(1))


# ---- what can


@pytest.mark.parametrize("precision", ALL)
def test_a_stand_in_makes_the_same_texts(
    precision: str, stand_in: Provider, tiny_bundles: dict[str, Bundle]
) -> None:
    model = GPT2(tiny_bundles[precision], Threads(1), "stand-in")
    assert model.provider == "stand-in:cpu"
    assert model.runtime.kernels == ""
    prompts = ["a b c", "ab", "xyz, and more", "a"]
    texts = [done.text for done in model.generate_batch(prompts, GREEDY, SOME)]
    alone = [model.generate(prompt, GREEDY, SOME).text for prompt in prompts]
    assert texts == alone
    if precision == "fp32":
        cpu = GPT2(tiny_bundles[precision], Threads(1), "cpu")
        assert texts == [done.text for done in cpu.generate_batch(prompts, GREEDY, SOME)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_is_told_that_the_threads_of_a_provider_stayed_behind(
    stand_in: Provider, tiny_bundles: dict[str, Bundle]
) -> None:
    model = GPT2(tiny_bundles["fp32"], Threads(1), "stand-in")
    child = os.fork()
    if child == 0:  # no exception may leave it
        code = 1
        try:
            model.generate("ab", GREEDY, SOME)
        except InvalidSetting as error:
            code = 0 if "threads of its provider" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    model.generate("ab", GREEDY, SOME)


def test_nodes_that_run_elsewhere_are_told_and_beyond_a_share_refused(
    stand_in: Provider, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundles["fp32"]
    assert GPT2(bundle, Threads(1), "stand-in").runtime.notes == []
    few = Placement(100, {"Shape": 3, "Concat": 5})
    monkeypatch.setattr(execution, "placement", lambda *_: few)
    (note,) = GPT2(bundle, Threads(1), "stand-in").runtime.notes
    assert note == "stand-in:cpu: 8 of 100 nodes on the CPU (5 Concat, 3 Shape)"
    monkeypatch.setattr(execution, "placement", lambda *_: Placement(100, {"MatMul": 11}))
    with pytest.raises(ProviderMissing, match=r"too little of it: 11 of 100 .*MatMul\), 10% may"):
        open_on(bundle, "stand-in", Threads(1))


def test_where_nodes_run_is_what_onnx_runtime_says() -> None:
    node = SimpleNamespace(op_type="Add")
    parts = [
        SimpleNamespace(ep_name="Mine", get_nodes=lambda: [node] * 3),
        SimpleNamespace(ep_name="CPU", get_nodes=lambda: [node]),
    ]
    session = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    assert placement(session, "Mine") == Placement(4, {"Add": 1})
    assert Placement(4, {"Add": 1}).share == 0.25


CHILD = """
import sys
from gpt2rt import GPT2, SamplingParams, Stopping
for directory in sys.argv[1:]:
    model = GPT2.load(directory, threads=1, provider="webgpu")
    made = model.generate("a b c", SamplingParams(temperature=0), Stopping(length=3))
    print(model.provider, made.tokens)
"""


def test_webgpu_makes_the_tokens_of_the_cpu(tiny_bundles: dict[str, Bundle]) -> None:
    if find_spec("onnxruntime_ep_webgpu") is None:
        pytest.skip("needs the extra webgpu")
    if runtime_version() < TABLE["webgpu"].least_runtime:
        pytest.skip("needs a later ONNX Runtime, which users are told")
    if not SWIFTSHADER.is_file():
        pytest.skip("needs Chromium's software driver for Vulkan")
    driver = {
        "VK_ICD_FILENAMES": str(SWIFTSHADER),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
        "LD_LIBRARY_PATH": str(CHROMIUM),  # it has a loader of Vulkan
        "XDG_RUNTIME_DIR": "/tmp",
    }
    bundles = [tiny_bundles["fp32"], tiny_bundles["int8"]]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(bundle.directory) for bundle in bundles)],
        env={**os.environ, **driver},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    model = GPT2(bundles[0], Threads(1), "cpu")
    tokens = model.generate("a b c", GREEDY, Stopping(length=3)).tokens
    first, second = ended.stdout.splitlines()
    assert first == f"webgpu:cpu {tokens}"
    assert second.startswith("webgpu:cpu (")
