"""Scores that a device computes: those that the host computes from the same logits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from batches import Engines
from cuda_device import open_device
from gpt2rt import GPT2, Request, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.interface import SCORE
from gpt2rt.engine.cuda.check import check_reader
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.forward import Forward
from gpt2rt.engine.cuda.memory import Block
from gpt2rt.engine.cuda.passages import PassageReader
from gpt2rt.engine.cuda.scores import Group
from gpt2rt.engine.cuda.shapes import A_CALL
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.cuda.tails import Tails
from gpt2rt.engine.slots import Columns, Part, Slots
from gpt2rt.errors import BadLogits, OutOfMemory
from gpt2rt.generation.task import scored
from gpt2rt.sampling.selection import Draw, Row
from gpt2rt.scoring.on_device import WINDOW
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.scoring.token_scores import score_tokens
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
COLUMNS = ("logprobs", "ranks", "top_ids", "top_logprobs", "group")
LENGTHS = [2, 3, 9, 30, 17, 2, 49, 5, 48, 16, 33, 10, 11, 12, 24, 40, 2, 7]
PASSAGES = [
    Passage(tuple((TEXT * 2)[i : i + length]), 1 + 5 * i % (length - 1))
    for i, length in enumerate(LENGTHS)
]
GROUP = np.array([3, 77, 210, 5])


@pytest.fixture(scope="module")
def device(tiny_bundles: dict[str, Bundle]) -> Device:
    return open_device(tiny_bundles["fp16"])


def oracle(logits: NDArray[np.float32], target: int) -> tuple[float, int, NDArray[np.float64]]:
    """The log-probability and the rank of a token, and all log-probabilities, in float64."""
    wide = logits.astype(np.float64)
    logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    return float(logprobs[target]), int((logits > logits[target]).sum()), logprobs


@dataclass
class OnDevice:
    """What reads passages."""

    device: Device

    def slots(self, count: int) -> Slots:
        return CudaSlots(self.device, count)

    def passage_reader(self) -> AbstractContextManager[PassageReader | None]:
        return self.device.reader(PassageReader)


def scored_on(
    device: Device,
    passages: Iterable[Passage] = PASSAGES,
    top: int = 0,
    group: NDArray[np.int64] | None = None,
    batch_size: int | None = None,
) -> list[TokenScores]:
    """The scores of passages, beside no texts."""
    engines = Engines(partial(CudaSlots, device))  # which the batch does not keep alive
    found = score_tokens(
        OnDevice(device),
        engines.batch,
        TINY,
        passages,
        top=top,
        batch_size=batch_size,
        threads=1,
        group=group,
    )
    return list(found)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the calls that score passages: how many, and of how many tokens."""
    shapes: list[tuple[int, int]] = []
    real = PassageReader.call_of

    def watched(
        self: PassageReader, shape: tuple[int, ...], make: Callable[[], Forward]
    ) -> Forward:
        shapes.append((shape[0], shape[1]))
        return real(self, shape, make)

    monkeypatch.setattr(PassageReader, "call_of", watched)
    return shapes


@pytest.mark.parametrize("group", [None, GROUP])
@pytest.mark.parametrize("top", [0, 1, 7, TINY.n_vocab])
def test_scores_are_those_of_the_logits_of_each_passage_alone(
    device: Device, top: int, group: NDArray[np.int64] | None
) -> None:
    for passage, found in zip(PASSAGES, scored_on(device, PASSAGES, top, group), strict=True):
        count = len(passage.tokens) - passage.first
        part = Part(0, 0, passage.tokens[:-1], count)
        logits = np.asarray(CudaSlots(device, 1).step([part]))
        assert found.top_ids.shape == found.top_logprobs.shape == (count, top)
        for row, target, logprob, rank, ids, best, grouped in zip(
            logits,
            passage.tokens[passage.first :],
            *(getattr(found, name) for name in COLUMNS),
            strict=True,
        ):
            wanted, above, every = oracle(row, target)
            assert logprob == pytest.approx(wanted, abs=5e-3)
            # Of logits as near to each other as float16 rounds, either may be above.
            near = np.count_nonzero(np.abs(row - row[target]) < 5e-3)
            assert abs(rank - above) < near
            assert len(set(ids.tolist())) == top
            np.testing.assert_allclose(best, np.sort(every)[::-1][:top], atol=5e-3)
            np.testing.assert_allclose(best, every[ids], atol=5e-3)
            if group is None:
                assert np.isnan(grouped)
            else:
                assert grouped == pytest.approx(np.log(np.exp(every[GROUP]).sum()), abs=5e-3)


def test_passages_are_scored_as_on_the_host(
    device: Device, tiny_bundles: dict[str, Bundle]
) -> None:
    host = open_device(tiny_bundles["fp16"])
    host.distrust("logits are reduced on the host")
    for group in (None, GROUP):
        found, wanted = (scored_on(kind, PASSAGES, 3, group) for kind in (device, host))
        for one, other in zip(found, wanted, strict=True):
            for name in ("logprobs", "top_logprobs", "group"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=5e-3)


def test_many_passages_are_a_call_and_scores_keep_their_order(
    device: Device, calls: list[tuple[int, int]]
) -> None:
    """All together, a few side by side, one by one; the order of the results is that of the
    passages."""
    together = scored_on(device)
    assert calls == [(len(PASSAGES), TINY.n_ctx)]
    calls.clear()
    few = scored_on(device, batch_size=4)
    # By length, so that short ones are not padded to the length of long ones.
    assert calls == [(4, 48), (4, 32), (4, 16), (4, 16), (2, 16)]
    calls.clear()
    alone = scored_on(device, batch_size=1)
    assert len(calls) == len(PASSAGES)
    for passage, *found in zip(PASSAGES, together, few, alone, strict=True):
        assert {len(scores.ranks) for scores in found} == {len(passage.tokens) - passage.first}
        for scores in found:
            np.testing.assert_allclose(scores.logprobs, found[0].logprobs, atol=5e-3)


def test_calls_have_few_shapes_and_no_more_tokens_than_the_budget(
    device: Device, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2rt.engine.cuda.whole.A_CALL", 192)
    device.idle_readers.clear()
    lengths = np.random.default_rng(3).integers(2, TINY.n_ctx + 2, 300).tolist()
    passages = [Passage(tuple(TEXT[:1] * length)) for length in lengths]
    assert [len(s.ranks) + 1 for s in scored_on(device, iter(passages))] == lengths
    assert all(count * width <= 192 for count, width in calls)
    assert sum(lengths) - 300 <= sum(count * width for count, width in calls) < 1.3 * sum(lengths)
    assert len(set(calls)) < 16
    device.idle_readers.clear()


def test_any_number_of_passages_is_read_only_a_little_ahead(device: Device) -> None:
    taken = 0

    def endless() -> Iterator[Passage]:
        nonlocal taken
        while True:
            taken += 1
            yield Passage(tuple(TEXT[:41]))

    engines = Engines(partial(CudaSlots, device))
    scores = score_tokens(
        OnDevice(device), engines.batch, TINY, endless(), top=0, batch_size=None, threads=1
    )
    assert len(next(scores).logprobs) == 40
    assert taken <= 2 * WINDOW * A_CALL / 40 + 1
    scores.close()  # type: ignore[attr-defined]
    assert len(scored_on(device)) == len(PASSAGES)


def test_texts_in_progress_go_on_between_calls(
    device: Device, tiny_models: dict[str, GPT2], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text in another thread ends long before all passages are read; scores are the same."""
    wanted = scored_on(device, PASSAGES * 4, batch_size=2)
    engines = Engines(partial(CudaSlots, device))
    requests = [Request("a", stopping=Stopping(9, end_of_text=False))]
    pieces = engines.run(requests, tiny_models["fp16"].tasks, 1)
    next(pieces)
    found = score_tokens(
        OnDevice(device), engines.batch, TINY, PASSAGES * 4, top=0, batch_size=2, threads=1
    )
    first = next(found)
    assert sum(piece.token is not None for piece in pieces) == 8
    for one, other in zip([first, *found], wanted, strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)


def test_where_the_memory_is_too_small_fewer_are_read_side_by_side(
    device: Device, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = scored_on(device)
    device.idle_readers.clear()
    calls.clear()
    idle = CudaSlots(device, 2).buffers
    assert CudaSlots(device, 2).buffers is idle
    real, limit = device.memory.allocate, 160 * TINY.n_vocab * 2

    def allocate(size: int, *, host: bool = False) -> Block:
        if size > limit:
            raise OutOfMemory(f"no room for {size} bytes")
        return real(size, host=host)

    monkeypatch.setattr(device.memory, "allocate", allocate)
    for _ in range(3):  # it is remembered
        calls.clear()
        found = scored_on(device)
    assert max(count * width for count, width in calls) <= 128
    assert CudaSlots(device, 2).buffers is not idle  # whose memory was given back
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=5e-3)
    limit = 1000
    device.idle_readers.clear()
    with pytest.raises(OutOfMemory):
        scored_on(device)
    device.idle_readers.clear()


def test_the_chosen_tokens_are_scored_together(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no row is copied, but where the token is another than the device chose."""
    slots = CudaSlots(device, 5)
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
            tops = [value for _, value in best]
            assert tops == pytest.approx(np.sort(every)[::-1][:top], abs=1e-5)
            assert every[[token for token, _ in best]] == pytest.approx(tops, abs=1e-5)
    assert not copied
    other = (rows[4].chosen + 1) % TINY.n_vocab
    assert scored(rows[4], other, 0)[0] == pytest.approx(oracle(logits[4], other)[0], abs=1e-5)
    assert len(copied) == 1


def test_a_device_that_is_not_trusted_reads_no_passages(tiny_bundles: dict[str, Bundle]) -> None:
    careful = open_device(tiny_bundles["fp16"])
    careful.distrust("it is made up")
    with careful.reader(PassageReader) as reader:
        assert reader is None


def test_scores_that_are_not_those_of_the_logits_are_found_out(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device(tiny_bundles["fp16"])
    check_reader(device, PassageReader)
    assert not device.faults
    device.checked.clear()
    score = PassageReader.score

    def wrong(*given: Any) -> Columns:
        found = score(*given)
        return found._replace(logprobs=found.logprobs[::-1])

    monkeypatch.setattr(PassageReader, "score", wrong)
    check_reader(device, PassageReader)
    (why,) = device.faults.values()
    assert device.notes == [f"on CUDA, scores the slow way: {why}"]
    with device.reader(PassageReader) as reader:
        assert reader is None


def test_logits_that_are_not_finite_are_told(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of another model, whose logits are beyond float16."""
    scores = Tails.scores

    def broken(self: Tails, address: int, rows: int, top: int, group: Group) -> object:
        ctypes.memset(address, 0x7E, 2)  # a NaN
        return scores(self, address, rows, top, group)

    device.idle_readers.clear()
    monkeypatch.setattr(Tails, "scores", broken)
    with pytest.raises(BadLogits, match="not finite"):
        scored_on(device, [Passage((1, 2, 3))])


def test_the_graph_has_no_op_that_would_run_on_the_processor() -> None:
    """ONNX Runtime 1.31 runs these on CUDA for these types."""
    model = tails(TINY)[SCORE]
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {
        "Add", "Cast", "Constant", "Exp", "Gather", "GatherElements", "Greater", "Log", "MatMul",
        "ReduceSum", "Sub", "TopK",
    }  # fmt: skip
