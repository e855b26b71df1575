"""The figures of a benchmark, and the counts of bytes that they are held against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

pytest.importorskip("psutil")
pytest.importorskip("archspec")
pytest.importorskip("matplotlib")

from case_results import result
from gpt2rt import HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH
from gpt2rt_bench.cases import Configuration
from gpt2rt_bench.latency import CaseResult
from gpt2rt_bench.machine.bandwidth import Meter
from gpt2rt_bench.summary import Interval, baseline, summarise
from gpt2rt_bench.traffic import traffic
from gpt2rt_export.onnx_graph.cuda import CUDA
from models import TINY, LargerWeights, make_bundle

CONSTANTS = 200  # bytes of shapes and factors that a graph holds besides weights


# ---- what a step reads


def stored(precision: str, k: int, n: int) -> int:
    """Bytes of a matrix [n, k] and its scales."""
    groups = (k + -k % 64) * (n + -n % 16)
    return {"fp32": 4 * k * n, "fp16": 2 * k * n, "int8": groups + 4 * n}[precision]


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
        return n * (k // 2 + 2 * blocks + (blocks + 1) // 2) if precision == "int4" else 2 * k * n

    layer = sum(product(k, n) for k, n in ((D, 3 * W), (W, D), (D, 4 * D), (4 * D, D)))
    layer += 2 * (3 * W + 6 * D + 4 * D)  # biases, and two layer norms
    expected = TINY.n_layer * layer + 2 * (2 * D + D + D * V)  # and the mean of the lm_head
    found = traffic(tiny_bundles[precision], CUDA_GRAPH)
    assert expected <= found.weights < expected + CONSTANTS
    assert found.kv == TINY.n_layer * 2 * W * 2


@pytest.mark.parametrize(("precision", "row"), [("fp32", 4 * 32), ("int8", 64 + 4)])
def test_an_embedding_of_its_own_is_read_by_the_row(
    precision: str, row: int, tmp_path: Path
) -> None:
    hparams = HParams(n_vocab=300, n_ctx=48, n_embd=32, n_head=4, n_layer=1, tied=False)
    own = traffic(make_bundle(tmp_path / "own", LargerWeights(hparams, seed=1), precision))
    assert own.row == row + 4 * 32  # of wte, with its scale, and of wpe
    assert own.weights < 4 * (300 * 32 + 16 * 32 * 32 + 16 * 32 + 2 * 32) + CONSTANTS


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
