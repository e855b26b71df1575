"""The fused graph in ONNX Runtime: equal to the oracle for any split of the tokens into calls."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import reference
from gpt2rt import GPT2, HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import GRAPH
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine import forks, providers
from gpt2rt.engine.fused import PIECE, FusedSlots
from gpt2rt.engine.slots import Part, Slots
from models import NOISE, TINY, LargerWeights, make_bundle

TEXT = np.random.default_rng(0).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()


@pytest.fixture(scope="session")
def oracle(tiny_weights: LargerWeights) -> NDArray[np.float64]:
    return reference.logits(tiny_weights.read, TINY, TEXT)


def slots(model: GPT2, count: int) -> Slots:
    return model.new_slots(count)


def test_whole_context_equals_oracle(tiny: GPT2, oracle: NDArray[np.float64]) -> None:
    logits = slots(tiny, 1).step([Part(0, 0, TEXT, len(TEXT))])
    np.testing.assert_allclose(logits, oracle, atol=NOISE[tiny.bundle.manifest.precision])


@pytest.mark.parametrize("split", range(1, TINY.n_ctx))
def test_cached_equals_uncached_at_every_split(tiny_models: dict[str, GPT2], split: int) -> None:
    whole = slots(tiny_models["fp32"], 1).step([Part(0, 0, TEXT, len(TEXT))])
    two = slots(tiny_models["fp32"], 1)
    head = np.array(two.step([Part(0, 0, TEXT[:split], split)]))
    tail = np.asarray(two.step([Part(0, split, TEXT[split:], len(TEXT) - split)]))
    np.testing.assert_allclose(np.concatenate([head, tail]), whole, atol=1e-5)


def test_token_by_token_equals_oracle(tiny: GPT2, oracle: NDArray[np.float64]) -> None:
    one = slots(tiny, 1)
    rows = [np.array(one.step([Part(0, at, [token])])[0]) for at, token in enumerate(TEXT)]
    np.testing.assert_allclose(rows, oracle, atol=NOISE[tiny.bundle.manifest.precision])


SHAPES = [
    HParams(n_vocab=257, n_ctx=8, n_embd=4, n_head=1, n_layer=1),
    HParams(n_vocab=300, n_ctx=20, n_embd=15, n_head=3, n_layer=2),
    HParams(n_vocab=500, n_ctx=40, n_embd=128, n_head=2, n_layer=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("hparams", SHAPES, ids=lambda shape: f"head width {shape.head_width}")
@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_any_head_width_equals_oracle(tmp_path: Path, hparams: HParams, precision: str) -> None:
    """ONNX Runtime's attention takes multiples of 8; the others are padded with zeros."""
    weights = LargerWeights(hparams, seed=3, factor=4.0)
    model = GPT2(make_bundle(tmp_path / "bundle", weights, precision))
    text = np.random.default_rng(2).integers(0, hparams.n_vocab, hparams.n_ctx).tolist()
    oracle = reference.logits(weights.read, hparams, text)
    logits = slots(model, 1).step([Part(0, 0, text, len(text))])
    one = slots(model, 1)
    stepwise = [np.array(one.step([Part(0, at, [token])])[0]) for at, token in enumerate(text)]
    share = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.3, "int4": 1.5}  # about 1.6 times what was seen
    noise = share[precision] * oracle.std()
    np.testing.assert_allclose(logits, oracle, atol=noise)
    np.testing.assert_allclose(stepwise, oracle, atol=noise)


def test_rows_choose_among_the_same_logits(tiny: GPT2) -> None:
    every = np.asarray(slots(tiny, 1).step([Part(0, 0, TEXT[:20], 20)]))
    for wanted in (0, 1, 2, 11):
        some = slots(tiny, 1).step([Part(0, 0, TEXT[:20], wanted)])
        np.testing.assert_array_equal(some, every[20 - wanted :])


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_row_is_bit_equal_whatever_its_batch_mates(tiny: GPT2, count: int) -> None:
    """Sequences of different lengths in a batch give the same bits as each alone."""
    lengths = [1 + (7 * row) % 31 for row in range(count)]
    together, alone = slots(tiny, count), [slots(tiny, 1) for _ in range(count)]
    for row, length in enumerate(lengths):
        prompt = TEXT[row : row + length]
        np.testing.assert_array_equal(
            together.step([Part(row, 0, prompt)]), alone[row].step([Part(0, 0, prompt)])
        )
    for step in range(6):
        tokens = [TEXT[(3 * row + step) % len(TEXT)] for row in range(count)]
        parts = [Part(row, lengths[row] + step, [tokens[row]]) for row in range(count)]
        batch = np.asarray(together.step(parts))
        for row, part in enumerate(parts):
            single = np.asarray(alone[row].step([replace(part, slot=0)]))
            np.testing.assert_array_equal(batch[row], single[0])


def test_copy_makes_an_independent_twin(tiny: GPT2) -> None:
    two = slots(tiny, 2)
    two.step([Part(0, 0, TEXT[:9])])
    two.copy(0, 1, 9)
    rows = np.array(two.step([Part(slot, 9, [TEXT[9]]) for slot in (0, 1)]))
    np.testing.assert_array_equal(rows[0], rows[1])
    other = np.array(two.step([Part(0, 10, [1]), Part(1, 10, [2])]))
    assert not np.array_equal(other[0], other[1])


def test_int8_survives_a_row_of_zeros_and_outliers() -> None:
    """Rows are quantised separately: a huge value in one does not affect the others."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 32)).astype(np.float32)
    x[1] = 0
    x[2, 5] = 3000
    w = rng.standard_normal((32, 8)).astype(np.float32)
    y = int8_product(x, w)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(y[1], 0)
    np.testing.assert_allclose(y[[0, 3]], (x @ w)[[0, 3]], atol=0.5)
    np.testing.assert_array_equal(y[[0]], int8_product(x[[0]], w))


def int8_product(x: NDArray[np.float32], w: NDArray[np.float32]) -> NDArray[np.float32]:
    """x @ w by the nodes that the int8 precision emits, run in ONNX Runtime."""
    from onnx import TensorProto, helper, numpy_helper

    from gpt2rt_export.onnx_graph import quantize
    from gpt2rt_export.onnx_graph.builder import Builder
    from gpt2rt_export.onnx_graph.fuse import IR_VERSION, OPSET
    from gpt2rt_export.onnx_graph.rounding import int8_columns

    b = Builder(TINY)
    b.constant("zero_points", np.full((len(x), 1), quantize.ZERO_POINT, np.uint8))
    q, scale = int8_columns(w)
    names = (b.constant("q", q), b.constant("scale", scale))
    quantize.int8_product(b, "x", "scope", len(w), names, "y")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        b.nodes,
        "product",
        [value("x", TensorProto.FLOAT, x.shape)],
        [value("y", TensorProto.FLOAT, None)],
        initializer=list(b.constants.values()),
    )
    assert all(numpy_helper.to_array(tensor) is not None for tensor in b.constants.values())
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0], np.float32)


@pytest.mark.parametrize(
    ("avx512", "before", "meanwhile"),
    [(True, None, "1"), (False, None, None), (True, "0", "0")],
)
def test_attention_is_chosen_by_the_processor_unless_the_user_does(
    avx512: bool,
    before: str | None,
    meanwhile: str | None,
    tiny_bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(providers, "has_avx512", lambda: avx512)
    monkeypatch.delenv(providers.NO_FLASH, raising=False)
    if before is not None:
        monkeypatch.setenv(providers.NO_FLASH, before)
    seen, opened = [], forks.ForkAwareSession

    def session(*arguments: Any, **options: Any) -> object:
        seen.append(os.environ.get(providers.NO_FLASH))
        return opened(*arguments, **options)

    monkeypatch.setattr(forks, "ForkAwareSession", session)
    providers.open_session(tiny_bundles["fp32"].directory / GRAPH, providers.Threads(1))
    assert (seen, os.environ.get(providers.NO_FLASH)) == ([meanwhile], before)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """For more positions than are read in one call, in fp32."""
    shape = HParams(n_vocab=300, n_ctx=520, n_embd=128, n_head=2, n_layer=2)
    place = tmp_path_factory.mktemp("long") / "bundle"
    return make_bundle(place, LargerWeights(shape, seed=2), "fp32")


@pytest.mark.parametrize("plain", ["0", "1"])
def test_a_prompt_read_in_pieces_gives_the_same_bits(
    plain: str, long: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(providers.NO_FLASH, plain)
    shape = long.manifest.hparams
    session = providers.open_session(long.directory / GRAPH, providers.Threads(1))
    text = np.random.default_rng(4).integers(0, shape.n_vocab, shape.n_ctx).tolist()
    for length in (PIECE, PIECE + 1, PIECE + 2, 2 * PIECE, 2 * PIECE + 1, shape.n_ctx):
        pieces = FusedSlots(session, shape, 1).extend(0, 0, text[:length])
        whole = FusedSlots(session, shape, 1).extend(0, 0, text[:length], [length - 1])
        np.testing.assert_array_equal(pieces, whole)


def test_plain_attention_gives_the_same_bits_wherever_a_text_is_cut(
    long: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash attention does not, where a piece leaves one row for its last block of 128."""
    monkeypatch.setenv(providers.NO_FLASH, "1")
    shape = long.manifest.hparams
    session = providers.open_session(long.directory / GRAPH, providers.Threads(1))
    text = np.random.default_rng(4).integers(0, shape.n_vocab, shape.n_ctx).tolist()
    whole = FusedSlots(session, shape, 1).extend(0, 0, text)[0].copy()
    for cut in (2, 129, 255, 256, 257, 391, 511, 518):
        pieces = FusedSlots(session, shape, 1)
        pieces.extend(0, 0, text[:cut])
        np.testing.assert_array_equal(pieces.extend(0, cut, text[cut:])[0], whole)
