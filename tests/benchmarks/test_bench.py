"""Measuring: the counts that figures are held against, the order of work, what is said of it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("psutil")
pytest.importorskip("archspec")
pytest.importorskip("matplotlib")

from command_line import Command
from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH, GRAPH
from gpt2rt.errors import InvalidSetting
from gpt2rt_bench import worker
from gpt2rt_bench.cases import Case, Configuration, configurations, matrix
from gpt2rt_bench.latency import CaseResult, measure
from gpt2rt_bench.machine.bandwidth import Meter, Meters
from gpt2rt_bench.machine.hardware import Machine, limitation
from gpt2rt_bench.protocol import Answer, Ready
from gpt2rt_bench.report import TITLES, columns, markdown, rows_of
from gpt2rt_bench.run import planned, run
from gpt2rt_bench.subject import Subject, SubjectFailed
from gpt2rt_bench.summary import Interval, baseline, summarise
from gpt2rt_bench.traffic import Traffic, traffic
from gpt2rt_export.onnx_graph.cuda import CUDA
from models import TINY, LargerWeights, make_bundle

CONSTANTS = 200  # bytes of shapes and factors that a graph holds besides weights


# ---- what a step reads


def stored(precision: str, k: int, n: int) -> int:
    """Bytes of a matrix [n, k] and its scales."""
    return {"fp32": 4 * k * n, "fp16": 2 * k * n, "int8": k * n + 4 * n}[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_bytes_a_step_are_those_of_every_layer(
    precision: str, tiny_bundles: dict[str, Bundle]
) -> None:
    D, V, W = TINY.n_embd, TINY.n_vocab, TINY.n_head * TINY.kv_width
    shapes = ((D, 3 * W), (W, D), (D, 4 * D), (4 * D, D))
    layer = sum(stored(precision, k, n) + 4 * n for k, n in shapes)  # and biases
    layer += 2 * 2 * 4 * D  # two layer norms
    expected = TINY.n_layer * layer + 2 * 4 * D + stored(precision, D, V)
    found = traffic(tiny_bundles[precision])
    assert expected <= found.weights < expected + CONSTANTS
    assert found.row == 4 * D  # of the positions: the tied embedding is read whole, as lm_head
    assert found.kv == TINY.n_layer * 2 * W * (4 if precision == "fp32" else 2)
    assert found.step(3, 10) == found.weights + 3 * (found.row + 10 * found.kv)


@pytest.mark.parametrize("precision", sorted(CUDA))
def test_bytes_a_step_on_cuda_are_those_that_stay_there(
    precision: str, tiny_bundles: dict[str, Bundle]
) -> None:
    """Half precision, and the embedding and lm_head widened to it when they are loaded."""
    D, V, W = TINY.n_embd, TINY.n_vocab, TINY.n_head * TINY.kv_width

    def product(k: int, n: int) -> int:
        blocks = k // 32
        return 2 * k * n if precision == "fp16" else n * (k // 2 + 2 * blocks + (blocks + 1) // 2)

    layer = sum(product(k, n) for k, n in ((D, 3 * W), (W, D), (D, 4 * D), (4 * D, D)))
    layer += 2 * (3 * W + 6 * D + 4 * D)  # biases, and two layer norms
    expected = TINY.n_layer * layer + 2 * (2 * D + D + D * V)  # and the mean of the lm_head
    found = traffic(tiny_bundles[precision], CUDA_GRAPH)
    assert expected <= found.weights < expected + CONSTANTS
    assert found.kv == TINY.n_layer * 2 * W * 2


@pytest.mark.parametrize(("precision", "row"), [("fp32", 4 * 32), ("int8", 32 + 4)])
def test_an_embedding_of_its_own_is_read_by_the_row(
    precision: str, row: int, tmp_path: Path
) -> None:
    hparams = HParams(n_vocab=300, n_ctx=48, n_embd=32, n_head=4, n_layer=1, tied=False)
    own = traffic(make_bundle(tmp_path / "own", LargerWeights(hparams, seed=1), precision))
    assert own.row == row + 4 * 32  # of wte, with its scale, and of wpe
    assert own.weights < 4 * (300 * 32 + 16 * 32 * 32 + 16 * 32 + 2 * 32) + CONSTANTS


def test_weights_that_are_widened_are_read_wide(
    tiny_bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    """As ONNX Runtime keeps them once it has loaded them."""
    place = tmp_path / "half"
    shutil.copytree(tiny_bundles["fp32"].directory, place)
    model = onnx.load(str(place / GRAPH))
    name = "model/h0/mlp/c_fc/w"
    wide = next(t for t in model.graph.initializer if t.name == name)
    half = onnx.numpy_helper.from_array(
        onnx.numpy_helper.to_array(wide).astype(np.float16), f"{name}/fp16"
    )
    model.graph.initializer.remove(wide)
    model.graph.initializer.append(half)
    model.graph.node.insert(
        0, onnx.helper.make_node("Cast", [half.name], [name], to=onnx.TensorProto.FLOAT)
    )
    onnx.save(model, str(place / GRAPH))
    bundle = replace(tiny_bundles["fp32"], directory=place)
    assert traffic(bundle) == traffic(tiny_bundles["fp32"])


def test_the_meter_reads_what_it_says() -> None:
    assert Meter("cpu", 1, size=1 << 20).read() > 1e6  # bytes a second, on any machine


# ---- figures


@pytest.mark.parametrize(
    ("n", "low", "high", "confidence"),
    [(1, 1, 1, 0), (5, 1, 5, 0.9375), (7, 1, 7, 0.9844), (10, 2, 9, 0.9785), (15, 4, 12, 0.9648)],
)
def test_intervals_are_those_of_the_printed_tables(
    n: int, low: int, high: int, confidence: float
) -> None:
    shuffled = np.random.default_rng(n).permutation(np.arange(1, n + 1)).tolist()
    found = Interval.of(shuffled)
    assert (found.low, found.high) == (low, high)
    assert found.confidence == pytest.approx(confidence, abs=5e-5)
    assert found.median == (n + 1) / 2


def result(
    steps: list[list[float]], library: str = "gpt2rt", model: str = "m", **size: int
) -> CaseResult:
    case = Case(Configuration(model, "cpu", 2, library), size.get("prompt", 4), 2, 3)
    ready = Ready("cpu", "fp32", {"lib": "1"}, ["a note"], load_ms=5.0)
    subject: Any = SimpleNamespace(ready=ready, start_ms=9.0)
    answers = [
        Answer(10.0 * i, step, [[1, 2, 3]] * 2, {"session": 3.0, "sampling": 1.0}, 10**6 + i)
        for i, step in enumerate(steps, 1)
    ]
    return CaseResult(case, subject, answers)


def test_a_summary_is_of_rounds_and_its_percentiles_of_every_step() -> None:
    steps = [[1.0, 2.0, 3.0], [2.0, 4.0, 90.0], [3.0, 3.0, 3.0]]
    found = summarise(result(steps), result([[2.0], [8.0], [3.0]]))
    assert found.step_ms.median == 3
    assert found.tokens_per_second.median == pytest.approx(2e3 / 3)
    assert found.prefill_ms.median == 20
    for p, value in found.token_ms.items():
        assert value == pytest.approx(np.percentile(np.ravel(steps), p))
    assert found.ratio is not None
    assert found.ratio.median == median([2 / 2, 8 / 4, 3 / 3])  # round by round
    assert found.shares == {"session": 0.75, "sampling": 0.25}
    assert found.peak_bytes == 10**6 + 3


def test_a_peer_is_compared_with_the_same_model_and_ours_with_the_first() -> None:
    ours, second = result([[1.0]]), result([[1.0]], model="n")
    peer, elsewhere = result([[1.0]], "peer", "n"), result([[1.0]], model="n", prompt=9)
    every = [ours, second, peer, elsewhere]
    assert [baseline(one, every) for one in every] == [None, ours, second, None]


def test_a_peer_is_compared_with_as_many_threads_on_the_same_provider() -> None:
    def case(library: str, threads: int, provider: str) -> CaseResult:
        found = result([[1.0]], library)
        own = Configuration("m", provider, threads, library)
        found.subject.ready = replace(found.subject.ready, provider=provider)
        return replace(found, case=replace(found.case, configuration=own))

    every = [case("gpt2rt", 2, "cuda"), case("gpt2rt", 1, "cpu"), case("gpt2rt", 2, "cpu")]
    peers = [case("peer", threads, "cpu") for threads in (1, 2, 3)]
    assert [baseline(peer, every + peers) for peer in peers] == [every[1], every[2], None]


def test_of_one_round_there_is_no_interval() -> None:
    assert Interval.of([3.0]).between("{:.0f}") == ""
    assert Interval.of([3.0, 4.0, 5.0]).between("{:.0f}") == "3–5"


# ---- the order of work


class Recorder:
    """Stands for a subject: notes what it is asked."""

    def __init__(self, configuration: Configuration, log: list[str]) -> None:
        self.name, self._log = configuration.model, log
        self._log.append(f"start {self.name}")

    def ask(self, prompts: list[list[int]], steps: int) -> Answer:
        self._log.append(f"{self.name} {len(prompts)}x{len(prompts[0])}")
        return Answer(1.0, [1.0] * (steps - 1), [[0] * steps] * len(prompts))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.append(f"close {self.name}")


def test_every_round_does_every_case_and_the_first_does_not_count() -> None:
    subjects = configurations(["a", "b"], ["cpu"], [1])
    cases = matrix(subjects, [3, 2, 3], [1], 2)
    log: list[str] = []
    start: Any = lambda configuration: Recorder(configuration, log)  # noqa: E731
    results = measure(
        cases, start, {"a": 9, "b": 9}, 2, every_round=lambda results: log.append("round")
    )
    one = ["round", "a 1x2", "b 1x2", "a 1x3", "b 1x3"]
    assert log == ["start a", "start b", *one * 3, "close b", "close a"]
    assert [len(found.answers) for found in results] == [2] * 4


def test_prompts_are_the_same_for_everyone() -> None:
    one, other = (Case(Configuration(m, "cpu", 1), 5, 2, 2) for m in "ab")
    assert one.prompts(300) == other.prompts(300)
    assert np.shape(one.prompts(300)) == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(([0], [1], 2), "prompt"), (([1], [-1], 2), "batch"), (([1], [1], 1), "steps")],
)
def test_numbers_that_mean_nothing(arguments: tuple[Any, ...], wrong: str) -> None:
    with pytest.raises(InvalidSetting, match=wrong):
        matrix(configurations(["a"], ["cpu"], [1]), *arguments)


# ---- workers


def test_the_worker_says_what_the_model_says(tiny_models: dict[str, GPT2]) -> None:
    model = tiny_models["int8"]
    configuration = Configuration("tiny", "cpu", 1)
    prompts = ["one day", "in the end"]
    tokens = [list(model.prompt_tokens(prompt)) for prompt in prompts]
    with Subject("tiny", worker.command(model.bundle.directory, configuration)) as subject:
        answer = subject.ask(tokens, 6)
        again = subject.ask(tokens, 6)
    stopping = Stopping(6, end_of_text=False)
    for prompt, found in zip(prompts, answer.tokens, strict=True):
        wanted = model.generate(prompt, SamplingParams(temperature=0), stopping)
        assert tuple(found) == wanted.tokens
    assert again.tokens == answer.tokens
    assert len(answer.step_ms) == 5
    assert answer.shares is not None
    assert set(answer.shares) == {"session", "sampling", "tokenising"}
    parts = answer.shares["session"] + answer.shares["sampling"]
    assert 0 < parts <= answer.prefill_ms + sum(answer.step_ms)
    assert subject.ready.provider == "cpu"
    assert subject.ready.precision == "int8"
    assert 0 < subject.ready.load_ms < subject.start_ms


WORKER = """
import os, sys
from gpt2rt_bench.protocol import Answer, Ready, serve
def load():
    print("a library greets")
    if "broken" in sys.argv:
        raise ValueError("no such weights\\nand more")
    def respond(prompts, steps):
        if "dies" in sys.argv:
            print("out of luck", file=sys.stderr)
            os._exit(3)
        return Answer(1.0, [2.0] * (steps - 1), prompts)
    return Ready("cpu", "fp32", {}), respond
serve(load)
"""


def own(*arguments: str) -> list[str]:
    return [sys.executable, "-c", WORKER, *arguments]


def test_what_a_library_prints_is_no_answer() -> None:
    with Subject("s", own()) as subject:
        assert subject.ask([[7]], 3).step_ms == [2.0, 2.0]
        assert subject.ask([[8]], 2).tokens == [[8]]
        assert (subject.ask([[8]], 2).peak_bytes or 1) > 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (own("broken"), "^s: ValueError: no such weights$"),
        (own("dies"), "^s: the worker ended with exit code 3: out of luck$"),
        (["/nonesuch/python"], "^s: /nonesuch/python: "),
    ],
)
def test_a_worker_that_dies_is_told_by_name(command: list[str], said: str) -> None:
    with pytest.raises(SubjectFailed, match=said), Subject("s", command) as subject:
        subject.ask([[1]], 2)


# ---- what is said


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


def test_fp16_cannot_help_a_processor() -> None:
    machine: Any = SimpleNamespace(has=lambda *names: True)
    assert "fp16" in (limitation("fp16", "cpu", machine) or "")
    assert limitation("fp16", "cuda", machine) is None
    assert limitation("int8", "cpu", machine) is None


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
        (["--provider", "tpu"], "unknown provider 'tpu': there are cpu, cuda, auto"),
        (["--prompt", "999"], "nothing can be measured"),
        (["--threads", "0"], "threads must be 1"),
        (["--rounds", "0"], "rounds must be 1"),
        (["--report", "nonesuch/r.md"], "nonesuch/r.md: its directory does not exist"),
        (["--plot", "nonesuch/p.png"], "nonesuch/p.png: its directory does not exist"),
        (["--plot", "p.gif"], "a plot is .png"),
        (["--report", "/proc/r.md"], "/proc/r.md: its directory cannot be written to"),
        (["--start-up", "--batch", "2"], "--start-up measures one text"),
        (["--start-up", "--report", "r.md"], "no --report"),
        (["--start-up", "--prompt", "4", "--prompt", "5"], "one --prompt at a time"),
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
