"""What `gpt2rt doctor` finds out and says."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from command_line import Command
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.cli.commands import download, export, verify
from gpt2rt.engine import providers
from gpt2rt.kernels.library import Kernels, kernels
from gpt2rt_bench.machine import doctor
from gpt2rt_bench.machine.extras import EXTRAS
from gpt2rt_bench.machine.hardware import Machine
from gpt2rt_bench.micro.devices import Devices, listed
from gpt2rt_bench.micro.opening import Opening, opening, reason_in

CPU = "CPUExecutionProvider"


def test_the_cpu_provider_opens() -> None:
    assert opening(CPU) == Opening(True, None, ())


def test_a_provider_that_is_none_and_a_library_that_is_missing() -> None:
    found = opening("NonesuchExecutionProvider", ["libnonesuch.so.1"])
    assert not found.opened
    assert found.reason
    assert found.missing == ("libnonesuch.so.1",)


def test_the_reason_is_the_library_that_did_not_load() -> None:
    said = (
        "\n[E:onnxruntime] FAIL : Failed to load x.so with error: libcublas.so.13: no such file\n"
    )
    assert reason_in(said) == "libcublas.so.13: no such file"
    assert reason_in("first\nsecond") == "first"


def subjects(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in findings}


def test_kernels_in_use_are_told_or_why_there_are_none() -> None:
    there = doctor.kernels_finding(Kernels(Path("lib"), "avx2"))
    assert (there.state, there.remedy) == ("good", None)
    assert "avx2" in there.found
    none = doctor.kernels_finding(Kernels(problem="not compiled", remedy="do it"))
    assert (none.state, none.remedy) == ("note", "do it")
    assert "not compiled" in none.found


def test_missing_cuda_libraries_name_the_extra() -> None:
    cuda = doctor.Cuda("13.0", None, None, (), ("libcudnn.so.9",), False)
    found = subjects(list(doctor.cuda_findings(cuda, Opening(False, "no", cuda.missing))))
    assert "libcudnn.so.9" in found["CUDA libraries"].found
    assert "gpt2rt[cuda]" in (found["CUDA libraries"].remedy or "")


def test_a_driver_too_old_for_this_onnx_runtime_is_bad() -> None:
    card = (doctor.Gpu("Card", 8 << 30),)
    for supports, state in (("12.8", "bad"), ("13.0", "good"), ("13.4", "good")):
        cuda = doctor.Cuda("13.2", "550.1", supports, card, (), False)
        found = subjects(list(doctor.cuda_findings(cuda, Opening(False, "no", ()))))[
            "graphics card"
        ]
        assert found.state == state
        assert ("driver" in (found.remedy or "")) == (state == "bad")


def test_the_devices_of_every_provider_for_this_system_are_told() -> None:
    found = {
        "mine": Devices({"gpu": "a card", "gpu.1": ""}),
        "yours": Devices({}, "not installed", tried=False),
    }
    mine, yours = doctor.device_findings(found)
    assert (mine.state, mine.found) == ("good", "gpu (a card), gpu.1")
    assert yours.state == "note"
    assert yours.found == "not installed; not run by the authors of gpt2rt"
    assert listed("directml").problem
    assert listed("openvino").devices or listed("openvino").problem


def test_libraries_nobody_looked_for_are_not_found() -> None:
    cuda = doctor.Cuda("13.0", None, None, (), None, False)
    assert "CUDA libraries" not in subjects(list(doctor.cuda_findings(cuda, Opening(False, "no"))))


def test_a_processor_that_is_slow_is_nothing_to_mend() -> None:
    for instructions, state in (("SSE4.2",), "note"), (("AVX2",), "good"):
        machine = replace(Machine.here(), instructions=instructions)
        assert subjects([*doctor.processor_findings(machine)])["instructions"].state == state


def test_the_machine_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs an optional library is not known; the rest is."""
    monkeypatch.setattr("gpt2rt_bench.machine.hardware.find_spec", lambda name: None)
    monkeypatch.setattr("gpt2rt_bench.machine.doctor.find_spec", lambda name: None)
    machine = Machine.here()
    assert (machine.instructions, machine.memory) == (None, None)
    assert machine.allowed_cores >= machine.threads >= 1
    assert machine.has("AVX2") is None
    found = subjects([*doctor.processor_findings(machine), doctor.memory_finding(machine)])
    assert found["instructions"].found == "not known"
    assert "gpt2rt[bench]" in (found["memory"].remedy or "")
    assert "not export" in subjects(list(doctor.extras_finding()))["extras"].found


def test_every_extra_of_the_package_is_told_of_with_all_that_commands_ask_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = set(project["project"]["optional-dependencies"])
    providers = {"cuda", "openvino", "webgpu", "tensorrt-rtx"}
    assert set(EXTRAS) == extras - providers - {"peers"}
    for needed in (export.NEEDED, download.NEEDED, verify.NEEDED):
        assert set(needed) <= set(EXTRAS["export"])


def test_the_release_of_unicode_is_that_of_the_newest_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is newer than this Python's Unicode is no letter to it."""
    ours = [n for n, letter in doctor.LETTERS.items() if unicodedata.category(letter)[0] == "L"]
    assert ours[-1] == unicodedata.unidata_version.replace(".0", "")
    assert float(doctor.unicode_release()) >= 15.1
    old = {"match": lambda pattern, letter: letter <= "\U00010fff" and letter != "\U000105c0"}
    monkeypatch.setattr(doctor, "regex", SimpleNamespace(**old))
    assert doctor.unicode_release() == "14"
    monkeypatch.setattr(doctor, "regex", SimpleNamespace(match=lambda pattern, letter: None))
    assert doctor.unicode_release() == "before 9"


@pytest.fixture
def demo(command: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model is there, as in every installation; `command` takes it away."""
    monkeypatch.setattr(catalog, "demo_bundle", lambda: model)


@pytest.mark.usefixtures("demo")
def test_doctor_on_the_command_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "opening", lambda name, libraries=(): Opening(name == CPU, "no", ())
    )
    ended = command("doctor")
    assert ended.code == 0  # a provider, a model and extras are missing, and nothing is broken
    assert " note " in ended.out
    assert " BAD " not in ended.out
    assert "CPU " in ended.out
    body = json.loads(command("doctor", "--json").out)
    assert body["providers"][CPU]["opened"] is True
    assert body["machine"]["kernels"] == kernels().instructions
    told = {f["subject"] for f in body["findings"]}
    assert {"processor", "kernels", "versions", "models", "extras"} <= told
    assert len(body["models"]) == 1
    (said,) = (f["found"] for f in body["findings"] if f["subject"] == "tokenizer")
    assert f"Unicode {body['unicode']}" in said
    assert f"regex {version('regex')}" in said
    monkeypatch.setattr(doctor, "opening", lambda name, libraries=(): Opening(False, "no", ()))
    ended = command("doctor")
    assert (ended.code, ended.err) == (1, "")
    assert re.search(r"^CPU +BAD ", ended.out, re.MULTILINE)


@pytest.mark.usefixtures("demo")
def test_a_damaged_bundle_is_told(
    command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "opening", lambda name, libraries=(): Opening(True, None, ()))
    place = home / "bundles" / "117M-int8"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("{}")
    ended = command("doctor", "--json")
    assert ended.code == 1
    body = json.loads(ended.out)
    (bad,) = [f for f in body["findings"] if f["state"] == "bad"]
    assert str(place) in bad["found"]


@pytest.mark.usefixtures("demo")
def test_a_model_tells_how_it_runs_here_and_why_it_is_slow(
    command: Command, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "opening", lambda name, libraries=(): Opening(True, None, ()))
    place = str(tiny_bundles["fp32"].directory)
    monkeypatch.setattr(providers, "cuda_problem", lambda: None)
    body = json.loads(command("doctor", place, "nowhere", "--json").out)
    told = [(f["state"], f["found"]) for f in body["findings"] if f["subject"] == place]
    assert [state for state, _ in told] == ["good", "note"]
    assert told[0][1].startswith("runs on cpu, threads 1")
    assert "round it to float16" in told[1][1]
    (missing,) = (f for f in body["findings"] if f["subject"] == "nowhere")
    assert (missing["state"], "nowhere" in missing["found"]) == ("bad", True)
    monkeypatch.setattr(providers, "cuda_problem", lambda: "no device")
    ended = command("doctor", place)
    assert ended.code == 0
    assert "float16" not in ended.out
