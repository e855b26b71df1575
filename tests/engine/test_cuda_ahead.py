"""Steps that come after rows of the one before, whose tokens only the device knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.forward import feeding
from gpt2rt.engine.cuda.memory import HostMemory
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.slots import Part
from gpt2rt.sampling.selection import BEST, Draw, Selected
from models import TINY
from steps_ahead import OPENERS


@pytest.fixture(params=sorted(OPENERS))
def device(request: pytest.FixtureRequest, tiny_bundles: dict[str, Bundle]) -> Device:
    return OPENERS[request.param](tiny_bundles["fp16"])


def test_a_step_after_rows_is_the_step_after_their_tokens(device: Device) -> None:
    """In any order of slots and rows, and from prompts as from steps."""
    random = np.random.default_rng(0)
    texts = [random.integers(0, TINY.n_vocab, 3 + n).tolist() for n in range(5)]
    known, fed = CudaSlots(device, 5), CudaSlots(device, 5)
    parts = [Part(slot, 0, texts[slot]) for slot in range(5)]
    draws = [BEST, Draw(1.0, 0.3), Draw(1.0, 0.7), BEST, Draw(0.5, 0.9)]
    wanted, found = known.step(parts, draws), fed.step(parts, draws)
    lengths = np.array([len(text) for text in texts])
    for order in ([4, 0, 2], [0, 1, 2, 3, 4], [3, 2, 1, 0], [1]):
        assert isinstance(wanted, Selected)
        assert isinstance(found, Selected)
        fresh = [Part(slot, int(lengths[slot]), [slot]) for slot in range(5) if slot not in order]
        old = [Part(slot, int(lengths[slot]), [0]) for slot in order]
        same = [replace(part, tokens=[wanted[part.slot].chosen]) for part in old]
        after = [replace(part, after=found[part.slot]) for part in old]
        logits = np.asarray(wanted)
        before, wanted = found, known.step([*same, *fresh], draws)
        found = fed.step([*after, *fresh], draws)
        np.testing.assert_array_equal(np.asarray(before), logits)  # they are still there
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
        assert isinstance(wanted, Selected)
        assert isinstance(found, Selected)
        assert found.chosen == wanted.chosen
        lengths += 1
        # The rows come in the order of the parts: let the next ones be by slots again.
        parts = sorted([*same, *fresh], key=lambda part: part.slot)
        parts = [replace(part, start=part.start + 1) for part in parts]
        wanted, found = known.step(parts, draws), fed.step(parts, draws)
        lengths += 1


def test_rows_of_a_prompt_stay_while_another_is_read_into_its_slot(device: Device) -> None:
    """Its text may have moved to another slot meanwhile; and its shape comes often."""
    slots, alone = CudaSlots(device, 2), CudaSlots(device, 2)
    random = np.random.default_rng(0)
    texts = random.integers(0, TINY.n_vocab, (9, 5)).tolist()
    wanted = [np.array(alone.step([Part(1, 0, text)])) for text in texts]
    rows = slots.step([Part(1, 0, texts[0])], [BEST])
    for last, text in enumerate(texts[1:]):
        assert isinstance(rows, Selected)
        slots.copy(1, 0, 5)
        parts = [Part(0, 5, (0,), after=rows[len(rows) - 1]), Part(1, 0, text)]
        before, rows = rows, slots.step(parts, [BEST, BEST])
        np.testing.assert_array_equal(np.asarray(before)[-1], wanted[last][0])
        assert before[len(before) - 1].chosen == wanted[last].argmax()


@given(
    rows=st.sets(st.integers(0, 40), min_size=1),
    places=st.permutations(range(41)),
    runs=st.booleans(),
)
def test_tokens_are_moved_to_their_rows_by_few_moves(
    rows: set[int], places: list[int], runs: bool
) -> None:
    source, target = np.arange(100, 141), np.full(41, -9, np.int32)
    numbers = np.array([row for row in places if row in rows])
    sources = numbers if runs else np.array(places)[numbers]
    addresses = (source.ctypes.data + 8 * sources).tolist()
    moves = feeding(list(zip(numbers.tolist(), addresses, strict=True)), target.ctypes.data)
    HostMemory().copy(*moves)
    assert target[numbers].tolist() == source[sources].tolist()
    assert (np.delete(target, numbers) == -9).all()
    if runs:
        assert len(moves) == 1 + np.count_nonzero(np.diff(np.sort(numbers)) != 1)
