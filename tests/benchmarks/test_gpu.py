"""The script that measures CUDA: run dry on the CPU provider, and what it does with failures."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH, GRAPH
from gpt2rt_bench.gpu.__main__ import run
from gpt2rt_bench.gpu.context import Context
from gpt2rt_bench.gpu.figures import GpuFigure, table
from gpt2rt_bench.gpu.item import ITEMS
from gpt2rt_bench.gpu.prepare import strip
from gpt2rt_bench.gpu.random_bundle import fill
from gpt2rt_bench.micro.ahead import step_us

# Answers as a peer does, after the environment's Python.
PEER = """#!{python}
import json, sys
assert sys.argv[2:4] == ["pytorch_cuda", "serve"], sys.argv
ready = {{"provider": "cuda", "precision": "p", "versions": {{}}}}
print(json.dumps({{"ready": ready}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    steps = asked["steps"]
    answer = {{"prefill_ms": 2.0, "step_ms": [1.0] * (steps - 1), "tokens": [[1] * steps]}}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def graphs(tmp_path: Path, tiny_bundles: dict[str, Bundle]) -> Path:
    for size in ("small", "large"):
        strip(tiny_bundles["fp16"], tmp_path / "graphs" / size)
    return tmp_path / "graphs"


@pytest.mark.slow
def test_a_dry_run_measures_every_figure(graphs: Path, tmp_path: Path) -> None:
    python, output = tmp_path / "python", tmp_path / "figures.jsonl"
    python.write_text(PEER.format(python=sys.executable))
    python.chmod(0o755)
    command = [sys.executable, "-m", "gpt2rt_bench.gpu", "--dry", "--graphs", str(graphs)]
    command += ["--peers-python", str(python), "--output", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert output.read_text() == ended.stdout
    machine, *records = map(json.loads, ended.stdout.splitlines())
    assert "onnxruntime" in "".join(machine["versions"])
    assert {record["item"] for record in records} == set(ITEMS)
    assert all(record.get("measured") is not None for record in records), records
    found = {record["figure"]: record for record in records}
    for name in (
        "self-check: reasons to work the slow way",
        "logits beside the CPU's",
        "two threads: a text changed afterwards",
        "interrupted streams: texts still running",
    ):
        assert found[name]["reached"] is True, found[name]
    assert any(
        name.startswith("greedy tokens unlike") and f["reached"] for name, f in found.items()
    )
    assert found["a step, batch 3 after 4, tokens/s to PyTorch's"]["wanted"] == 0.9
    assert found["prefill, 2 x 9, time to PyTorch's"]["ms"]["PyTorch"] == [2.0]
    rates = [f for name, f in found.items() if name.startswith("generate_batch")]
    assert [f.get("wanted") for f in rates] == [60_000, None, 50_000, None, None, None]
    assert sum("each step after the one before" in name for name in found) == 4
    assert all(f["device_us_a_token"] > 0 for f in rates)
    for name in found:
        assert name in ended.stderr


def test_graphs_get_random_weights_alike_in_every_type(graphs: Path, tmp_path: Path) -> None:
    bundle = fill(graphs / "small", tmp_path / "made")
    bundle.check()
    gains, matrix = "model/h0/ln_1/g", "model/h0/attn/c_attn/b"
    values = {}
    for name in (GRAPH, CUDA_GRAPH):
        for tensor in onnx.load(str(bundle.directory / name)).graph.initializer:
            values[tensor.name] = numpy_helper.to_array(tensor)
    assert np.all(values[gains] == 1)
    assert values[matrix].dtype != values[f"{matrix}/fp16"].dtype
    np.testing.assert_array_equal(values[matrix], values[f"{matrix}/fp16"])
    wte = values["model/wte/fp16"].astype(np.float64)
    assert wte.std() == pytest.approx(0.02, rel=0.05)
    assert len(np.unique(wte[:, 0])) > 0.9 * len(wte)


def test_items_that_hang_or_fail_are_named(tmp_path: Path) -> None:
    c = Context(str(tmp_path), str(tmp_path), None, dry=True)
    (late,) = run("check", ITEMS["check"], c, 0.01)
    assert late == {"missing": "not done within 0 s"}
    (failed,) = run("check", ITEMS["check"], c, 60)
    assert "manifest" in failed["missing"]
    rows = table([{"item": "check", **late}, GpuFigure("a", 0.8, "x", 0.9).record()]).splitlines()
    assert rows[1].split() == ["check", "not", "done", "within", "0", "s"]
    assert rows[2].split() == ["a", ">=", "0.9", "0.8", "x", "NO"]


def test_figures_say_whether_they_are_reached() -> None:
    least = GpuFigure("a", 2.0, "x", 2.0)
    assert least.reached is True
    assert replace(least, measured=1.9).reached is False
    assert replace(least, measured=1.9, at_most=True).reached is True
    assert replace(least, measured=None).reached is replace(least, wanted=None).reached is None
    assert "open" in table([replace(least, measured=None).record()])
    assert json.loads(json.dumps(least.record()))["wanted"] == 2.0
    assert asdict(least)["note"] == ""


def test_the_hosts_work_hides_behind_a_device(
    tiny_models: dict[str, GPT2], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead a step takes the longer of both times, and little more; one by one, their sum.

    The host's clock goes on by a millisecond whenever it is looked at, a few times a step.
    """
    looks = itertools.count()
    monkeypatch.setattr("gpt2rt_bench.micro.ahead.thread_time", lambda: next(looks) / 1e3)
    model, device_us = tiny_models["fp32"], 5000
    host = step_us(model, 4, 0, ahead=False, rounds=3)
    assert step_us(model, 4, device_us, ahead=False, rounds=3) > device_us + host / 2
    assert device_us < step_us(model, 4, device_us, ahead=True, rounds=3) < device_us + host / 2
