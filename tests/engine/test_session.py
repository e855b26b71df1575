"""The fused graph in ONNX Runtime: equal to the oracle for any split of the tokens into steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import reference
from gpt2rt import GPT2, HParams
from gpt2rt.bundles.precision import KV_TYPES, PRECISIONS
from gpt2rt.engine import fused
from gpt2rt.engine.slots import Part, Slots
from models import NOISE, TINY, LargerWeights, assert_same, make_bundle

TEXT = np.random.default_rng(0).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()


@pytest.fixture(scope="session")
def oracle(tiny_weights: LargerWeights) -> NDArray[np.float64]:
    return reference.logits(tiny_weights.read, TINY, TEXT)


def slots(model: GPT2, count: int) -> Slots:
    return model.new_slots(count)


def whole(slots: Slots, tokens: list[int], slot: int = 0) -> NDArray[np.float32]:
    """The logits after every token of a text."""
    return np.array(slots.step([Part(slot, 0, tokens, len(tokens))]))


def stepwise(slots: Slots, tokens: list[int]) -> NDArray[np.float32]:
    """The same, token by token."""
    rows = [np.array(slots.step([Part(0, at, [token])])) for at, token in enumerate(tokens)]
    return np.concatenate(rows)


def test_whole_context_equals_oracle(tiny: GPT2, oracle: NDArray[np.float64]) -> None:
    logits = whole(slots(tiny, 1), TEXT)
    np.testing.assert_allclose(logits, oracle, atol=NOISE[tiny.bundle.manifest.precision])


@pytest.mark.parametrize("split", range(1, TINY.n_ctx))
def test_cached_equals_uncached_at_every_split(tiny: GPT2, split: int) -> None:
    two = slots(tiny, 1)
    head = whole(two, TEXT[:split])
    tail = two.step([Part(0, split, TEXT[split:], len(TEXT) - split)])
    wanted = whole(slots(tiny, 1), TEXT)
    assert_same(np.concatenate([head, tail]), wanted, tiny.bundle.manifest.precision)


def test_token_by_token_equals_whole(tiny: GPT2, oracle: NDArray[np.float64]) -> None:
    found = stepwise(slots(tiny, 1), TEXT)
    precision = tiny.bundle.manifest.precision
    np.testing.assert_allclose(found, oracle, atol=NOISE[precision])
    assert_same(found, whole(slots(tiny, 1), TEXT), precision)


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_keys_and_values_of_either_type_equal_the_oracle(
    precision: str,
    kv: str,
    tiny_weights: LargerWeights,
    oracle: NDArray[np.float64],
    tmp_path: Path,
) -> None:
    made = make_bundle(tmp_path / "bundle", tiny_weights, precision, kv=kv)
    model = GPT2.load(made.directory, threads=1)
    assert made.manifest.kv == KV_TYPES[kv]
    noise = NOISE["fp16" if (precision, kv) == ("fp32", "fp16") else precision]
    np.testing.assert_allclose(whole(slots(model, 1), TEXT), oracle, atol=noise)
    np.testing.assert_allclose(stepwise(slots(model, 1), TEXT), oracle, atol=noise)
    assert slots(model, 2).read(1, 0, 3).dtype == KV_TYPES[kv]


SHAPES = [
    HParams(n_vocab=257, n_ctx=8, n_embd=4, n_head=1, n_layer=1),
    HParams(n_vocab=300, n_ctx=20, n_embd=15, n_head=3, n_layer=2),
    HParams(n_vocab=500, n_ctx=40, n_embd=128, n_head=2, n_layer=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("hparams", SHAPES, ids=lambda shape: f"head width {shape.head_width}")
@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_any_head_width_equals_oracle(tmp_path: Path, hparams: HParams, precision: str) -> None:
    """Heads are padded with zeros to a multiple of 16."""
    weights = LargerWeights(hparams, seed=3, factor=4.0)
    model = GPT2(make_bundle(tmp_path / "bundle", weights, precision))
    text = np.random.default_rng(2).integers(0, hparams.n_vocab, hparams.n_ctx).tolist()
    oracle = reference.logits(weights.read, hparams, text)
    share = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.3, "int4": 1.5}  # about 1.6 times what was seen
    noise = share[precision] * oracle.std()
    np.testing.assert_allclose(whole(slots(model, 1), text), oracle, atol=noise)
    np.testing.assert_allclose(stepwise(slots(model, 1), text), oracle, atol=noise)


def test_wanted_rows_are_the_last_of_each_part(tiny: GPT2) -> None:
    precision = tiny.bundle.manifest.precision
    every = whole(slots(tiny, 1), TEXT[:20])
    other = whole(slots(tiny, 1), TEXT[20:29])
    both = slots(tiny, 3)
    found = both.step([Part(2, 0, TEXT[:20], 3), Part(0, 0, TEXT[20:29], 0)])
    assert_same(found, every[17:], precision)
    found = slots(tiny, 2).step([Part(1, 0, TEXT[:20]), Part(0, 0, TEXT[20:29], 9)])
    assert_same(found, np.concatenate([every[19:], other]), precision)
    assert np.shape(slots(tiny, 1).step([Part(0, 0, TEXT[:5], 0)])) == (0, TINY.n_vocab)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_row_is_the_same_whatever_its_batch_mates(tiny: GPT2, count: int) -> None:
    """Prompts, single tokens and drafts of different lengths in a step, beside each alone."""
    precision = tiny.bundle.manifest.precision
    together, alone = slots(tiny, count), [slots(tiny, 1) for _ in range(count)]
    lengths = [0] * count
    rng = np.random.default_rng(count)
    for _ in range(6):
        order = rng.permutation(count)[: rng.integers(1, count + 1)]
        parts = []
        for slot in order.tolist():
            new = int(rng.choice([1, 1, 3, 7]))
            parts.append(
                Part(slot, lengths[slot], TEXT[slot : slot + new], int(rng.integers(new + 1)))
            )
            lengths[slot] += new
        found = together.step(parts)
        single = [alone[p.slot].step([Part(0, p.start, p.tokens, p.wanted)]) for p in parts]
        assert_same(found, np.concatenate(single), precision)


@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_step_in_several_calls_gives_the_same(
    tiny: GPT2, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Part(1, 0, TEXT[:10], 4), Part(0, 0, TEXT[10:12], 0), Part(2, 0, TEXT[12:20], 8)]
    wanted = np.array(slots(tiny, 3).step(parts))
    monkeypatch.setattr(fused, "MOST_WITHOUT_KERNELS", 3 * most)
    monkeypatch.setattr(fused, "MOST_TOKENS", most)
    assert_same(slots(tiny, 3).step(parts), wanted, tiny.bundle.manifest.precision)


def test_copy_makes_an_independent_twin(tiny: GPT2) -> None:
    two = slots(tiny, 2)
    two.step([Part(0, 0, TEXT[:9])])
    two.copy(0, 1, 9)
    rows = two.step([Part(slot, 9, TEXT[9:10]) for slot in (0, 1)])
    assert_same(rows[0], rows[1], tiny.bundle.manifest.precision)
    other = two.step([Part(0, 10, [1]), Part(1, 10, [2])])
    assert not np.array_equal(other[0], other[1])


def test_what_is_read_from_a_slot_can_be_written_to_another(tiny: GPT2) -> None:
    two = slots(tiny, 2)
    two.step([Part(0, 0, TEXT[:9])])
    two.write(1, 0, two.read(0, 0, 9))
    np.testing.assert_array_equal(two.read(0, 0, 9), two.read(1, 0, 9))
    rows = two.step([Part(slot, 9, TEXT[9:10]) for slot in (0, 1)])
    assert_same(rows[0], rows[1], tiny.bundle.manifest.precision)
