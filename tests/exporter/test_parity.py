"""Parity: honest rounding passes the gate of its precision, and what is wrong does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tensorflow")

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH, PORTABLE_GRAPH
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.fused import FusedSlots
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.sampling.selection import Draw
from gpt2rt_export.onnx_graph.cuda import CUDA
from gpt2rt_export.sources import RandomCheckpoint
from gpt2rt_export.verify import agreement, parity
from gpt2rt_export.verify.agreement import Loss
from gpt2rt_export.verify.gates import GATES
from gpt2rt_export.verify.parity import ParityReport
from models import TINY, LargerWeights, kernels_loaded, make_bundle
from parity_cases import LAYER, DamagedCheckpoint, compared, measured


@pytest.fixture(scope="module")
def reports(
    tiny_bundles: dict[str, Bundle], tiny_weights: LargerWeights
) -> dict[str, ParityReport]:
    return {name: measured(bundle, tiny_weights) for name, bundle in tiny_bundles.items()}


@given(st.integers(0, 3000))
def test_spans_cover_the_context_from_its_second_token_to_its_last(count: int) -> None:
    found = parity.spans(count)
    assert found == sorted(set(found))
    assert found[:1] == [1][: count - 1 if count else 0]
    assert found[-1:] == [count - 1][: count - 1 if count else 0]
    assert len(found) == max(0, min(count - 1, parity.SPANS * parity.SPAN))
    assert max(np.diff([0, *found]), default=0) <= max(1, count / (parity.SPANS - 1))


def test_fp32_is_tensorflow_but_for_the_last_digits(reports: dict[str, ParityReport]) -> None:
    report = reports["fp32"]
    assert report.failures() == []
    assert len(report.drift) == TINY.n_layer + 1
    assert max(report.drift) < 3e-6
    for name, way in report.agreements.items():
        assert way.relative < (0.02 if name == "cuda" else 3e-5)  # CUDA computes in float16
        assert way.top1 == way.top5 == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_honest_rounding_passes_whatever_the_weights(
    precision: str, reports: dict[str, ParityReport], tmp_path: Path
) -> None:
    """Those of a model that was never trained, and others six times as large."""
    assert reports[precision].failures() == []
    weights = RandomCheckpoint(TINY, seed=5)
    assert measured(make_bundle(tmp_path / "b", weights, precision), weights).failures() == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("large", "part"),
    [(False, "mlp/c_proj"), (True, "mlp/c_proj"), (True, "attn/c_proj"), (True, "attn/c_attn")],
)
def test_a_wrong_weight_fails_and_drift_grows_where_it_is(
    precision: str, large: bool, part: str, tmp_path: Path
) -> None:
    """A lost sign, in weights as they begin and in larger ones."""
    weights = LargerWeights(TINY, seed=7) if large else RandomCheckpoint(TINY, seed=7)
    wrong = DamagedCheckpoint(weights, f"model/h{LAYER}/{part}/w", np.negative)
    report = measured(make_bundle(tmp_path / "wrong", wrong, precision), weights)
    assert report.failures()
    right = measured(make_bundle(tmp_path / "right", weights, precision), weights)
    assert report.drift[: LAYER + 1] == right.drift[: LAYER + 1]
    assert report.drift[LAYER + 1] > 2 * right.drift[LAYER + 1]
    assert np.argmax(report.added) == LAYER + 1
    assert report.added[LAYER + 1] > GATES[precision].added


def test_a_cache_that_forgets_fails_though_the_text_in_one_piece_is_right(
    tiny_bundles: dict[str, Bundle], tiny_weights: LargerWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(FusedSlots):
        def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
            new = [p if len(p.tokens) > 1 else replace(p, start=0) for p in parts]
            return super().step(new, draws)

    monkeypatch.setitem(SLOTS, "fused", Forgetful)
    failures = measured(tiny_bundles["int8"], tiny_weights).failures()
    assert failures
    assert all(text.startswith("cached") for text in failures)


@pytest.mark.parametrize(
    ("stage", "graph", "precision"),
    [
        *(("cuda", CUDA_GRAPH, precision) for precision in sorted(CUDA)),
        *(("portable", PORTABLE_GRAPH, precision) for precision in sorted(PRECISIONS)),
    ],
)
def test_a_wrong_graph_for_another_provider_fails_though_the_others_are_right(
    stage: str,
    graph: str,
    precision: str,
    reports: dict[str, ParityReport],
    tiny_weights: LargerWeights,
    tmp_path: Path,
) -> None:
    assert getattr(reports[precision], stage) is not None
    bundle = make_bundle(tmp_path / "bundle", tiny_weights, precision)
    path = bundle.directory / graph
    model = onnx.load(path, load_external_data=False)
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.attribute.append(onnx.helper.make_attribute("alpha", -1.0))  # of its product
    onnx.save(model, path)
    failures = measured(bundle, tiny_weights).failures()
    assert failures
    assert all(text.startswith(stage) for text in failures)


def test_with_kernels_cached_and_uncached_logits_are_equal(
    reports: dict[str, ParityReport],
) -> None:
    for report in reports.values():
        assert report.exact == kernels_loaded()
        assert report.apart <= report.apart_allowed
        apart = replace(report, apart=1e-9, exact=True)
        assert apart.failures() == ["cached and uncached logits: 1e-09 apart (allowed 0)"]
        assert replace(apart, exact=False).failures() == []


def test_nothing_that_is_not_a_number_passes(reports: dict[str, ParityReport]) -> None:
    good = reports["fp32"]
    nan = float("nan")
    for bad in (
        replace(good, uncached=replace(good.uncached, largest=nan)),
        replace(good, uncached=replace(good.uncached, kl=nan)),
        replace(good, loss=replace(good.loss, bundle=nan)),
        replace(good, added=(0.0, nan)),
        replace(good, apart=nan),
        replace(good, added=(math.inf, 0.0)),
    ):
        assert len(bad.failures()) == 1


def test_equal_logits_agree_and_statistics_are_those_of_each_row() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 70, 40)).astype(np.float32)
    same = compared(a, a)
    assert (same.largest, same.mean, same.kl, same.top1, same.top5) == (0, 0, 0, 1, 1)
    found = compared(a, b)
    assert found.largest == pytest.approx(np.abs(a - b).max())
    assert found.top1 == pytest.approx((a.argmax(-1) == b.argmax(-1)).mean())
    p, q = (np.exp(agreement.log_softmax(x)) for x in (a, b))
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())


# ---- models that do not know the text


@given(st.integers(1, 6), st.integers(0, 9))
def test_vocabularies_of_few_tokens_are_compared(n_vocab: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((7, n_vocab)).astype(np.float32)
    same = compared(rows, rows)
    assert (same.relative, same.tempered, same.top1, same.top5) == (0, 0, 1, 1)


# ---- the loss


def test_rounding_without_direction_is_chance_and_a_loss_everywhere_is_not() -> None:
    rng = np.random.default_rng(1)
    nats = rng.gamma(2.0, 2.0, 1023)
    by_chance = Loss.of(nats, nats + 0.3 * rng.standard_normal(1023))
    assert by_chance.excess < 0 < abs(by_chance.change)
    everywhere = Loss.of(nats, nats + 0.1)
    assert everywhere.excess == pytest.approx(math.expm1(0.1 - agreement.CHANCE * everywhere.error))
    assert Loss.of(nats, nats - 0.1).excess == pytest.approx(everywhere.excess), "either way"
    assert Loss.of(nats, nats).excess == Loss.of(nats[:0], nats[:0]).excess == 0


def test_losses_beyond_every_number_are_still_numbers() -> None:
    huge = Loss.of(np.array([1e5]), np.array([3e5])).as_dict()
    assert all(map(math.isfinite, huge.values()))


# ---- gates


def test_every_precision_has_a_gate_and_fewer_bits_a_wider_one() -> None:
    assert set(PRECISIONS) <= set(GATES)
    limits = [(g.largest, g.tempered, g.kl, g.perplexity, g.added) for g in GATES.values()]
    assert all((np.diff(column) >= 0).all() for column in zip(*limits, strict=True))
