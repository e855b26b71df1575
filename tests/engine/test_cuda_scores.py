"""Scores that a device computes: those that the host computes from the same logits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from batches import Engines
from cuda_device import open_device
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.interface import SCORE
from gpt2rt.engine.cuda import Device
from gpt2rt.engine.cuda_forward import Forward
from gpt2rt.engine.cuda_scores import Group
from gpt2rt.engine.cuda_tails import Tails
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadLogits
from gpt2rt.generation.task import scored
from gpt2rt.sampling.selection import Draw, Row
from gpt2rt.scoring.scoring import Passage, score_tokens
from gpt2rt_export.onnx_graph.cuda_tails import tails
from models import TINY

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda

TEXT = np.random.default_rng(0).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()
PARTS = [
    Part(0, 0, TEXT[:12], 12),
    Part(1, 0, TEXT[12:17], 2),
    Part(2, 4, TEXT[20:23], 0),
    Part(3, 20, [8]),
    Part(4, 5, TEXT[:3], 3),
]
TARGETS = np.random.default_rng(1).integers(0, TINY.n_vocab, 18).tolist()
GROUP = np.array([3, 77, 210, 5])


@pytest.fixture(scope="module")
def device(tiny_bundles: dict[str, Bundle]) -> Device:
    return open_device(tiny_bundles["fp16"])


def oracle(logits: NDArray[np.float32], target: int) -> tuple[float, int, NDArray[np.float64]]:
    """The log-probability and the rank of a token, and all log-probabilities, in float64."""
    wide = logits.astype(np.float64)
    logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    return float(logprobs[target]), int((logits > logits[target]).sum()), logprobs


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 3, 0, 1), (2,), (3,)])
@pytest.mark.parametrize("top", [0, 1, 7, TINY.n_vocab])
def test_scores_are_those_of_the_logits_whatever_the_parts(
    device: Device, order: tuple[int, ...], top: int
) -> None:
    slots, parts = device.slots(5), [PARTS[number] for number in order]
    slots.step([Part(slot, 0, TEXT[slot : slot + 25], 0) for slot in range(5)])
    logits = np.asarray(slots.step(parts))
    targets = TARGETS[: len(logits)]
    for group in (None, GROUP):
        found = slots.score(parts, targets, top, group)
        assert found is not None
        assert found.top_ids.shape == found.top_logprobs.shape == (len(logits), top)
        assert len(found.logprobs) == len(found.ranks) == len(found.group) == len(logits)
        for row, target, logprob, rank, ids, best, grouped in zip(
            logits, targets, *found, strict=True
        ):
            wanted, above, every = oracle(row, target)
            assert logprob == pytest.approx(wanted, abs=1e-5)
            assert rank == above
            assert len(set(ids.tolist())) == top
            np.testing.assert_allclose(best, np.sort(every)[::-1][:top], atol=1e-5)
            np.testing.assert_allclose(best, every[ids], atol=1e-5)
            if group is None:
                assert np.isnan(grouped)
            else:
                assert grouped == pytest.approx(np.log(np.exp(every[GROUP]).sum()), abs=1e-5)


def test_passages_are_scored_as_on_the_host(
    device: Device, tiny_bundles: dict[str, Bundle]
) -> None:
    host = open_device(tiny_bundles["fp16"])
    host.distrust("logits are reduced on the host")
    engines = Engines(device.slots)  # which the batch does not keep alive
    passages = [Passage(tuple(TEXT[i : i + 3 + 5 * i]), 1 + i) for i in range(8)]
    for group in (None, GROUP):
        columns = [
            [
                (s.logprobs, s.ranks, s.top_logprobs, s.group)
                for s in score_tokens(
                    kind.slots,
                    engines.batch,
                    TINY,
                    passages,
                    top=3,
                    batch_size=4,
                    threads=1,
                    group=group,
                )
            ]
            for kind in (device, host)
        ]
        for found, wanted in zip(*columns, strict=True):
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_allclose(one, other, atol=5e-3)


def test_the_chosen_tokens_are_scored_together(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no row is copied, but where the token is another than the device chose."""
    slots = device.slots(5)
    slots.step([Part(slot, 0, TEXT[slot : slot + 25], 0) for slot in range(5)])
    draws = [Draw(1.0, number / 18, 40 if number % 2 else 0) for number in range(18)]
    rows = slots.step(PARTS, draws)
    logits = [np.asarray(row) for row in rows]
    copied: list[tuple[int, ...]] = []
    whole = Forward.logits

    def watched(self: Forward, *which: int) -> NDArray[np.float32]:
        copied.append(which)
        return whole(self, *which)

    monkeypatch.setattr(Forward, "logits", watched)
    for top in (0, 3, 1000):
        for row, values in zip(rows, logits, strict=True):
            assert isinstance(row, Row)
            logprob, best = scored(row, row.chosen, top)
            wanted, _, every = oracle(values, row.chosen)
            assert logprob == pytest.approx(wanted, abs=1e-5)
            assert [value for _, value in best] == pytest.approx(
                np.sort(every)[::-1][:top], abs=1e-5
            )
            assert every[[token for token, _ in best]] == pytest.approx(
                [value for _, value in best], abs=1e-5
            )
    assert not copied
    other = (rows[4].chosen + 1) % TINY.n_vocab
    assert scored(rows[4], other, 0)[0] == pytest.approx(oracle(logits[4], other)[0], abs=1e-5)
    assert len(copied) == 1


def test_a_device_that_is_not_trusted_scores_nothing(tiny_bundles: dict[str, Bundle]) -> None:
    careful = open_device(tiny_bundles["fp16"])
    careful.distrust("it is made up")
    assert careful.slots(1).score(PARTS[:1], TARGETS[:12], 0, None) is None


def test_logits_that_are_not_finite_are_told(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of another model, whose logits are beyond float16."""
    slots = device.slots(1)
    scores = Tails.scores

    def broken(self: Tails, address: int, rows: int, top: int, group: Group) -> object:
        import ctypes

        ctypes.memset(address, 0x7E, 2)  # a NaN
        return scores(self, address, rows, top, group)

    monkeypatch.setattr(Tails, "scores", broken)
    with pytest.raises(BadLogits, match="not finite"):
        slots.score([Part(0, 0, TEXT[:3], 3)], TARGETS[:3], 0, None)


def test_the_graph_has_no_op_that_would_run_on_the_processor() -> None:
    """ONNX Runtime 1.31 runs these on CUDA for these types."""
    model = tails(TINY)[SCORE]
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {
        "Add", "Cast", "Constant", "Exp", "Gather", "GatherElements", "Greater", "Log", "MatMul",
        "ReduceSum", "Sub", "TopK",
    }  # fmt: skip
