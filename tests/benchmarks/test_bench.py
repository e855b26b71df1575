"""`gpt2rt bench`: the report, the table, from Python, misuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("psutil")
pytest.importorskip("archspec")
pytest.importorskip("matplotlib")

from case_results import result
from command_line import Command
from gpt2rt.bundles.bundle import Bundle
from gpt2rt_bench.machine.bandwidth import Meters
from gpt2rt_bench.machine.hardware import Machine, limitation
from gpt2rt_bench.report import TITLES, columns, markdown, rows_of
from gpt2rt_bench.run import planned, run
from gpt2rt_bench.subject import Subject
from gpt2rt_bench.traffic import Traffic


def test_the_report_has_the_machine_the_versions_and_every_case() -> None:
    results = [result([[2.0], [2.0]]), result([[1.0], [1.0]], model="n")]
    rows = rows_of(results, lambda result: None, Meters())
    text = markdown(rows, Machine.here(), ["bench", "m", "n"])
    head = next(line for line in text.splitlines() if line.startswith("| model"))
    body = [line for line in text.splitlines() if line.startswith(("| m |", "| n |"))]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        TITLES[i] for i in columns(rows)
    ]
    assert len(body) == 2
    assert "2.00" in body[1]  # twice as fast as the first
    for wanted in ("`gpt2rt bench m n`", "lib 1", "a note", Machine.here().processor, "threads 2"):
        assert wanted in text


def test_a_share_of_the_bandwidth_is_bytes_over_time_over_bandwidth() -> None:
    meters = Meters()
    meters.speeds["cpu", 2] = [1e9, 3e9, 2e9]
    (row,) = rows_of([result([[4.0]])], lambda result: Traffic(10**6, 0, 0), meters)
    assert row.bandwidth == 2e9
    assert row.utilisation == pytest.approx(1e6 / 4e-3 / 2e9)


def test_fp16_helps_a_processor_with_kernels_only() -> None:
    with_kernels, without = (
        SimpleNamespace(has=lambda *names: True, kernels=name) for name in ("avx2", "")
    )
    machine: Any = without
    assert "fp16" in (limitation("fp16", "cpu", machine) or "")
    assert limitation("fp16", "cuda", machine) is None
    assert limitation("int8", "cpu", machine) is None
    machine = with_kernels
    assert limitation("fp16", "cpu", machine) is None


@pytest.fixture
def small_meters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read to measure the bandwidth does not take the time of the tests."""
    monkeypatch.setattr("gpt2rt_bench.machine.bandwidth.BYTES", {"cpu": 1 << 20})


@pytest.mark.usefixtures("small_meters")
def test_a_benchmark_runs_from_python(tiny_bundles: dict[str, Bundle]) -> None:
    place = str(tiny_bundles["int8"].directory)
    plan = planned([place], providers=["cpu"], prompts=[4, 500], threads=[1], steps=3)
    assert [(case.prompt, case.configuration.threads) for case in plan.cases] == [(4, 1)]
    (reason,) = plan.left_out
    assert reason.startswith("500 prompt tokens and 3 steps exceed the context of")
    titles: list[str] = []
    (row,) = run(plan, 2, titles.append)
    assert len(titles) == plan.advances(2)
    assert row.record()["rounds"] == 2
    assert {len(tokens) for answer in row.result.answers for tokens in answer.tokens} == {3}


@pytest.mark.slow
@pytest.mark.usefixtures("small_meters")
def test_bench_writes_json_a_report_and_a_picture(
    command: Command, model: Path, tmp_path: Path
) -> None:
    report, plot = tmp_path / "r.md", tmp_path / "p.png"
    size = ["--prompt", 4, "--prompt", 40, "--steps", 3, "--rounds", 2]
    ended = command("bench", model, *size, "--json", "--report", report, "--plot", plot)
    assert ended.code == 0
    first, second = ended.records
    assert (first["prompt"], second["prompt"]) == (4, 40)
    assert first["provider"] == "cpu"
    assert first["precision"] == "int8"
    assert first["rounds"] == 2
    assert first["step_bytes"] < second["step_bytes"]  # more keys and values
    assert first["utilisation"] > 0
    assert first["token_ms_p50"] <= first["token_ms_p90"] <= first["token_ms_p99"]
    assert sum(first["shares"].values()) == pytest.approx(1)
    assert json.loads(json.dumps(first)) == first
    assert str(model) in report.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small_meters")
def test_the_table_of_a_benchmark_is_whole_in_a_pipe(command: Command, model: Path) -> None:
    ended = command("bench", model, "--prompt", 4, "--steps", 2, "--rounds", 1)
    head, row = ended.out.splitlines()
    assert "tokens/s" in head
    assert row.startswith(str(model))
    assert "…" not in ended.out
    assert "Library gpt2rt; provider cpu; " in ended.err


@pytest.mark.usefixtures("small_meters")
def test_providers_that_come_to_the_same_are_measured_once(command: Command, model: Path) -> None:
    size = ["--prompt", 4, "--steps", 2, "--rounds", 1, "--provider", "cpu", "--provider", "auto"]
    (row,) = command("bench", model, *size, "--json").records
    assert (row["asked_provider"], row["provider"]) == ("cpu", "cpu")


@pytest.mark.usefixtures("small_meters")
def test_cases_that_do_not_fit_are_left_out_by_name(command: Command, model: Path) -> None:
    size = ["--prompt", 4, "--prompt", 999, "--steps", 2, "--rounds", 1]
    ended = command("bench", model, *size, "--json")
    assert len(ended.records) == 1
    assert f"left out: 999 prompt tokens and 2 steps exceed the context of {model}, 48" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--provider", "tpu"],
            "coreml, web, all, auto, not",
        ),
        (["--prompt", "999"], "nothing can be measured"),
        (["--threads", "0"], "threads must be 1"),
        (["--rounds", "0"], "rounds must be 1"),
        (["--report", "nonesuch/r.md"], "nonesuch/r.md: its directory does not exist"),
        (["--plot", "nonesuch/p.png"], "nonesuch/p.png: its directory does not exist"),
        (["--plot", "p.gif"], "a plot is .png"),
        (["--report", "/proc/r.md"], "/proc/r.md: its directory cannot be written to"),
        (["--start-up", "--batch", "2"], "--start-up has no --batch"),
        (["--start-up", "--report", "r.md"], "no --report"),
        (["--start-up", "--prompt", "4", "--prompt", "5"], "one --prompt at a time"),
        (["--serve", "--report", "r.md"], "--serve has no --batch, no --report"),
        (["--serve", "--threads", "1", "--threads", "2"], "one --threads at a time"),
        (["--serve", "tiny"], "--serve measures one model"),
        (["--serve", "--clients", "0"], "clients must be 1 or more"),
        (["--serve", "--rounds", "0"], "rounds must be 1 or more"),
        (["--serve", "--long-every", "nan"], "--long-every must be seconds above 0"),
        (["--serve", "--url", "localhost:1"], "--url must begin with http://"),
        (["--serve", "--steps", "48"], "--steps must be 2 to 47"),
        (["--provider", "cuda", "--prompt", "4", "--steps", "2"], "CUDA"),
    ],
)
def test_bad_input_is_told_before_any_work(
    arguments: list[str], said: str, command: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("asked in vain")

    monkeypatch.setattr(Subject, "ask", never)
    ended = command("bench", model, *arguments)
    assert ended.code in (1, 2)
    assert said in ended.in_one_line()
