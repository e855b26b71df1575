"""What is chosen on the device: the tokens that NumPy's sampler chooses, or none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from batches import Engines
from cuda_device import open_device
from cuda_draws import FEW, SETTINGS, WIDE, assert_falls, draw_of, shares
from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.interface import CHOICES
from gpt2rt.engine.cuda.forward import Forward
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.cuda.tails import Tails
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadLogits
from gpt2rt.sampling.filters import Floats
from gpt2rt.sampling.history import Edits, History
from gpt2rt.sampling.sampling import NUMBERS, Sampler, choose
from gpt2rt.sampling.selection import BEST, Changes, Draw, Row, Selected
from gpt2rt_export.onnx_graph.cuda_tails import tails
from models import LargerWeights, make_bundle

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> CudaSlots:
    weights = LargerWeights(WIDE, seed=5)
    bundle = make_bundle(tmp_path_factory.mktemp("wide") / "bundle", weights, "fp16")
    return CudaSlots(open_device(bundle), 8)


def rows(slots: CudaSlots, draws: list[Draw], seed: int = 0) -> Selected:
    count = len(draws)
    slots.step([Part(slot, 0, [slot + 1, 2 * slot + 5 + seed]) for slot in range(count)])
    found = slots.step([Part(slot, 2, [10 + slot]) for slot in range(count)], draws)
    assert isinstance(found, Selected)
    return found


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_the_chosen_token_is_the_one_that_the_number_falls_on(
    slots: CudaSlots, params: SamplingParams
) -> None:
    numbers, undecided = np.random.default_rng(3).random(48).tolist(), 0
    for start in range(0, 48, 8):
        draws = [draw_of(params, number) for number in numbers[start : start + 8]]
        for row, draw in zip(rows(slots, draws, start), draws, strict=True):
            if row.chosen >= 0:
                assert_falls(row.chosen, draw, shares(np.asarray(row), params))
            undecided += row.chosen < 0
    assert undecided <= 12


@pytest.mark.slow
@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_every_token_is_chosen_as_often_as_it_should_be(
    slots: CudaSlots, params: SamplingParams
) -> None:
    """Over the range of the random number."""
    found: list[Counter[int]] = [Counter() for _ in range(8)]
    sweep = (np.arange(400) + 0.5) / 400
    for number in sweep:
        selected = rows(slots, [draw_of(params, number)] * 8)
        for row, counter in zip(selected, found, strict=True):
            counter[row.chosen] += 1
    for row, counter in zip(selected, found, strict=True):
        if counter[-1]:
            assert counter[-1] == len(sweep)  # it does not depend on the number
            continue
        got = np.array([counter[token] for token in range(WIDE.n_vocab)]) / len(sweep)
        np.testing.assert_allclose(got, shares(np.asarray(row), params), atol=1.01 / len(sweep))


@pytest.mark.parametrize("number", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval_fall_on_tokens_that_can_be_drawn(
    slots: CudaSlots, number: float
) -> None:
    for heat in (1.0, 60.0, 1e20):  # at 60 most weights are 0
        for top_k in (0, 5):
            for row in rows(slots, [Draw(heat, number, top_k)] * 4):
                logits = np.asarray(row)
                assert np.exp((logits[row.chosen] - logits.max()) * np.float32(heat)) > 0


def test_settings_of_all_kinds_side_by_side_choose_as_alone(slots: CudaSlots) -> None:
    """Whichever tail serves them together."""
    draws = [draw_of(params, 0.4) for params in SETTINGS[:7]]
    together = [row.chosen for row in rows(slots, [*draws, BEST])]
    for number, draw in enumerate(draws):
        alone = rows(slots, [*[BEST] * number, draw, *[BEST] * (7 - number)])
        assert alone[number].chosen == together[number]
    mixed = rows(slots, [BEST] * 7 + [Draw(1.0, 0.5)])
    best = [int(np.asarray(row).argmax()) for row in mixed]
    assert [row.chosen for row in mixed][:7] == best[:7]
    assert [row.chosen for row in rows(slots, [BEST] * 8)] == best


def test_draws_that_change_in_any_way_from_step_to_step_choose_as_alone(slots: CudaSlots) -> None:
    """What did not change is not sent to the device again."""
    random, settings = np.random.default_rng(9), [SETTINGS[n] for n in (0, 3, 4, 5, 6, 8)]
    steps = []
    for count in (6, 6, 3, 6, 1, 6, 6):
        draws = [draw_of(params, random.random()) for params in settings[:count]]
        steps.append((draws, list(rows(slots, draws).chosen)))
        settings = [settings[n] for n in random.permutation(6)] if count == 6 else settings
    for draws, chosen in steps:
        for number, (draw, token) in enumerate(zip(draws, chosen, strict=True)):
            mates = [BEST] * number
            assert rows(slots, [*mates, draw]).chosen[number] == token


def test_the_cheapest_tail_that_serves_all_rows_is_run() -> None:
    plain, listed = Draw(1.0, 0.5), Draw(1.0, 0.5, top_p=0.9)
    assert Tails.kind_for([BEST, BEST]) == "greedy"
    assert Tails.kind_for([BEST, plain]) == "plain"
    assert Tails.kind_for([BEST, plain, listed]) == "list"
    none = Changes(np.empty(0, np.int64), *np.empty((3, 0), np.float32))
    assert Tails.kind_for([BEST._replace(changes=none), listed]) == "edit"


# ---- nuclei of more tokens than the shortlist has


def test_samplers_of_wide_nuclei_seldom_copy_a_row(slots: CudaSlots) -> None:
    params = SamplingParams(top_p=0.95, temperature=9.0)
    samplers = [Sampler(params, 7, sample) for sample in range(8)]
    undecided = 0
    for turn in range(20):
        found = rows(slots, [sampler.next_draw() for sampler in samplers], turn)
        for row, sampler in zip(found, samplers, strict=True):
            undecided += row.chosen < 0
            assert shares(np.asarray(row), params)[sampler.draw(row)] > 0
    assert undecided <= 1


# ---- penalties, biases and bans


def test_rows_with_and_without_changes_side_by_side(slots: CudaSlots) -> None:
    params = SamplingParams(repetition_penalty=1.4, frequency_penalty=2.0)
    history = History(params, Edits(), list(range(0, 700, 5)))
    few = History(params, Edits(), [1, 2])
    draws = [
        Draw(1.0, 0.3),
        Draw(1.0, 0.3, changes=history.changes()),
        BEST,
        BEST._replace(changes=few.changes()),
        Draw(1.0, 0.3, top_k=30),
    ]
    found = rows(slots, draws)
    for row, draw, used in zip(found, draws, (None, history, None, few, None), strict=True):
        logits = np.asarray(row)
        assert row.changed == (used is not None)
        if used is not None:
            logits = used.edit(logits.copy())
        if draw.uniform == 0:
            assert row.chosen == logits.argmax()
        else:
            filters = SamplingParams(top_k=draw.top_k)
            assert_falls(row.chosen, draw, shares(logits, filters))


def test_a_sampler_with_penalties_copies_no_row(slots: CudaSlots) -> None:
    params = SamplingParams(repetition_penalty=1.3, top_k=20, presence_penalty=0.1)
    for greedy in (False, True):
        settings_ = replace(params, temperature=0.0) if greedy else params
        pairs = [
            [Sampler(settings_, 7, sample, prompt=[sample, 5, 9]) for sample in range(8)]
            for _ in range(2)
        ]
        for turn in range(3):
            found = rows(slots, [sampler.next_draw() for sampler in pairs[0]], turn)
            logits = np.asarray(found)
            for number, (one, other) in enumerate(zip(*pairs, strict=True)):
                row = Row(told(found), number)
                assert one.draw(row) == other.draw(logits[number])
    ahead = Sampler(params, 7, 0).next_draw(1)
    assert ahead.changes is None
    before = Selected(lambda: [3], [ahead], lambda number: logits[0])[0]
    assert Sampler(params, 7, 0).draw(before) == Sampler(params, 7, 0).draw(logits[0])


# ---- the sampler


def unwanted(number: int) -> Floats:
    raise AssertionError("the whole row was fetched")


def told(found: Selected) -> Selected:
    """What was chosen, without the logits."""
    return Selected(lambda: found.chosen, found.draws, unwanted)


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), *SETTINGS], ids=str)
def test_a_sampler_takes_what_its_draw_chose(slots: CudaSlots, params: SamplingParams) -> None:
    samplers = [Sampler(params, 7, sample) for sample in range(8)]
    found = rows(slots, [sampler.next_draw() for sampler in samplers])
    for number, sampler in enumerate(samplers):
        if (token := found.chosen[number]) >= 0:
            assert sampler.draw(Row(told(found), number)) == token


def test_what_the_device_cannot_tell_comes_from_the_whole_row() -> None:
    logits = np.linspace(0, 1, 700).astype(np.float32)
    numbers = [0.3] * NUMBERS
    for params in (
        SamplingParams(top_p=0.99),
        SamplingParams(min_p=0.6),
        SamplingParams(top_k=300),
    ):
        row = Selected(lambda: [-1], [BEST], lambda number: logits)[0]
        for last in (0.0, 0.4, 0.999):  # which alone tells, as the device knows the others
            token = choose(row, params, [*numbers[:-1], last])
            assert_falls(token, Draw(1.0, last), shares(logits, params))
    row = Selected(lambda: [-1], [BEST], lambda number: logits)[0]
    assert choose(row, SamplingParams(temperature=0), []) == 699
    for params in (  # devices do not know these, whatever they chose
        SamplingParams(typical_p=0.5),
        SamplingParams(top_k=40, typical_p=0.5),
        SamplingParams(top_p=0.5, compat="openai"),
    ):
        row = Selected(lambda: [3], [BEST], lambda number: logits)[0]
        assert choose(row, params, numbers) == choose(logits, params, numbers)
        assert Sampler(params, 1, 0).next_draw() == BEST
    broken = Selected(lambda: [-1], [BEST], lambda number: np.full(700, np.nan, np.float32))[0]
    with pytest.raises(BadLogits):
        choose(broken, SamplingParams(), numbers)


def test_rows_of_any_part_are_chosen_by_its_own_draw(slots: CudaSlots) -> None:
    slots.step([Part(slot, 0, [3, 5, slot], 0) for slot in range(8)])
    parts = [Part(6, 3, [1]), Part(0, 0, [4, 5], 2), Part(2, 3, [9]), Part(3, 2, [8, 8])]
    draws = [Draw(1 + number / 4, 0.1 + number / 5) for number in range(5)]
    logits = np.asarray(slots.step(parts))
    found = slots.step(parts, draws)
    assert isinstance(found, Selected)
    for row, plain, draw in zip(found, logits, draws, strict=True):
        np.testing.assert_array_equal(np.asarray(row), plain)
        params = SamplingParams(temperature=1 / draw.inverse_temperature)
        assert_falls(row.chosen, draw, shares(plain, params))


# ---- the graphs


# Ops and types that ONNX Runtime 1.31 runs on CUDA, and in a captured CUDA graph.
ON_DEVICE = {
    "Add", "And", "Cast", "Constant", "CumSum", "Div", "Equal", "Exp", "Gather", "GatherElements",
    "GatherND", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or",
    "Pad", "ReduceSum", "Reshape", "ScatterElements", "Sub", "TopK", "Unsqueeze", "Where",
}  # fmt: skip


def test_tails_have_no_op_that_would_run_on_the_processor() -> None:
    for hparams in (WIDE, FEW):
        for kind in CHOICES:
            model = tails(hparams)[kind]
            onnx.checker.check_model(model, full_check=True)
            assert {node.op_type for node in model.graph.node} <= ON_DEVICE, kind


# ---- the first token after a prompt


FIRST = {
    "greedy": SamplingParams(temperature=0),
    "plain": SamplingParams(seed=1),
    "top_k": SamplingParams(seed=1, top_k=5),
    "top_p": SamplingParams(seed=1, top_p=0.7),
    "wide": SamplingParams(seed=1, top_p=0.95, temperature=5.0),
    "penalty": SamplingParams(seed=1, repetition_penalty=1.3),
}


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows of logits that were copied."""
    found: list[tuple[int, ...]] = []
    real = Forward.logits

    def watched(self: Forward, *which: int) -> NDArray[np.float32]:
        found.append(which)
        return real(self, *which)

    monkeypatch.setattr(Forward, "logits", watched)
    return found


@pytest.mark.parametrize("kind", sorted(FIRST))
def test_tokens_after_prompts_are_chosen_on_the_device(
    kind: str,
    tiny_bundles: dict[str, Bundle],
    tiny_models: dict[str, GPT2],
    copied: list[tuple[int, ...]],
) -> None:
    """Also those of several samples of a prompt, each of which is what it would be alone."""
    device, stopping = open_device(tiny_bundles["fp16"]), Stopping(3, end_of_text=False)
    prompts = ["many words here"] * 4 + ["a", "x y z"]
    requests = [Request(p, FIRST[kind], stopping, sample=n) for n, p in enumerate(prompts)]

    def run(some: list[Request], count: int) -> dict[int, tuple[int, ...]]:
        pieces = Engines(partial(CudaSlots, device)).run(some, tiny_models["fp16"].tasks, count)
        return {p.sample: p.completion.tokens for p in pieces if p.completion}

    together = run(requests, len(requests))
    alone = [run([request], 1) for request in requests]
    assert together == {n: tokens for found in alone for n, tokens in found.items()}
    if kind != "wide":  # which the device cannot always tell
        assert not copied
