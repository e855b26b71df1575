"""GPT-2 in TensorFlow and the graphs converted from it: all equal the oracle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import reference
from models import TINY, LargerWeights

pytest.importorskip("tensorflow")

from gpt2rt.bundles.manifest import GRAPH, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.providers import Threads, open_session
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.engine.slots import Part
from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.onnx_graph.convert import convert
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.standard import standard
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.verify import parity
from gpt2rt_export.verify import reference as tensorflow

pytestmark = pytest.mark.slow  # most of these run TensorFlow


TEXT = np.random.default_rng(3).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()


@pytest.fixture(scope="module")
def converted() -> onnx.ModelProto:
    return convert(TINY)


@pytest.fixture(scope="module")
def tensorflow_logits(tiny_weights: LargerWeights) -> np.ndarray:
    return tensorflow.read(tiny_weights, TEXT).logits()


def write(directory: Path, kind: str, converted: onnx.ModelProto, weights: LargerWeights) -> Path:
    model, wanted = (
        standard(converted, TINY)
        if kind == "standard"
        else fuse(converted, TINY, STORAGE["fp32"], "float32")
    )
    attach([model], wanted, weights, directory / WEIGHTS)
    onnx.save(model, directory / GRAPH)
    return directory / GRAPH


def test_tensorflow_equals_oracle(
    tensorflow_logits: np.ndarray,
    tiny_weights: LargerWeights,
) -> None:
    oracle = reference.logits(tiny_weights.read, TINY, TEXT)
    np.testing.assert_allclose(tensorflow_logits, oracle, atol=2e-5)


@pytest.mark.parametrize("kind", ["fused", "standard"])
def test_graphs_equal_tensorflow(
    kind: str,
    converted: onnx.ModelProto,
    tiny_weights: LargerWeights,
    tensorflow_logits: np.ndarray,
    tmp_path: Path,
) -> None:
    """Uncached, token by token, and cached at every split."""
    session = open_session(write(tmp_path, kind, converted, tiny_weights), Threads(1))
    slots = SLOTS[kind](session, TINY, 1)
    whole = parity.uncached(slots, TEXT)
    np.testing.assert_allclose(whole, tensorflow_logits, atol=2e-5)
    stepwise = parity.cached(slots, TEXT, range(1, len(TEXT)))
    np.testing.assert_allclose(stepwise, tensorflow_logits[1:], atol=2e-5)
    for split in range(1, len(TEXT), 5):
        slots.step([Part(0, 0, TEXT[:split])])
        rest = slots.step([Part(0, split, TEXT[split:], len(TEXT) - split)])
        np.testing.assert_allclose(rest, tensorflow_logits[split:], atol=2e-5)


def test_tensorflow_graph_with_past_equals_without(
    tiny_weights: LargerWeights,
    tensorflow_logits: np.ndarray,
) -> None:
    import tensorflow as tf

    weights = {
        n.removeprefix("model/"): tf.constant(tiny_weights.read(n)) for n in TINY.variables()
    }
    past = graph.empty_past(TINY, 1)
    rows = []
    for part in (TEXT[:7], TEXT[7:8], TEXT[8:]):
        logits, past = graph.gpt2(tf.constant([part], tf.int32), past, weights, TINY)
        rows.append(logits[0].numpy())
    np.testing.assert_allclose(np.concatenate(rows), tensorflow_logits, atol=2e-5)
    assert tuple(past.shape) == TINY.past_shape(1, len(TEXT))


def test_fused_graph_is_small_and_keeps_no_trace_of_the_combined_past(
    converted: onnx.ModelProto,
) -> None:
    model, _ = fuse(converted, TINY, STORAGE["fp32"], "float32")
    kinds = Counter(node.op_type for node in model.graph.node)
    called = {
        "NormLinearFloat",
        "Attention",
        "NormLinearGeluFloat",
        "LinearAddFloat",
        "NormHeadFloat",
    }
    assert {made.name for made in model.functions} == called
    for kind, count in (("Attention", 1), ("NormLinearGeluFloat", 1), ("LinearAddFloat", 2)):
        assert kinds[kind] == count * TINY.n_layer
    assert set(kinds) - called == {"Gather", "Add"}, "the rows of embeddings, and the wanted ones"
    assert sum(kinds.values()) == 5 * TINY.n_layer + 6
    assert "past" not in [value.name for value in model.graph.input]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_embedding_is_stored_once(precision: str, converted: onnx.ModelProto) -> None:
    """It is multiplied by as lm_head as it is looked up."""
    _, weights = fuse(converted, TINY, STORAGE[precision], "float16")
    (wte,) = (weight for weight in weights if weight.source == "model/wte")
    stored, *_ = wte.make(np.ones((TINY.n_vocab, TINY.n_embd), np.float32))
    assert stored.size >= TINY.n_vocab * TINY.n_embd


def test_fusion_needs_every_named_cut(converted: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(converted)
    for node in broken.graph.node:
        if "h1/gelu/out:0" in node.output:
            node.output[0] = "renamed"
    with pytest.raises(Exception, match="h1/gelu/out:0"):
        fuse(broken, TINY, STORAGE["fp32"], "float32")
