"""GPT-2s that differ from OpenAI's: every variant equals the oracle, in every graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import onnx

import reference
from checkpoints import huggingface_tensors, save_huggingface, values_of
from gpt2rt import GPT2, HParams
from gpt2rt.bundles.hparams import ACTIVATIONS
from gpt2rt.bundles.manifest import GRAPH, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.providers import Threads, open_session
from gpt2rt.engine.runtime import SLOTS
from gpt2rt_export import pipeline
from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.onnx_graph.convert import convert
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.standard import standard
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import open_checkpoint
from gpt2rt_export.verify import parity
from gpt2rt_export.verify import reference as tensorflow
from models import LargerWeights
from small_huggingface import SHAPE

TEXT = np.random.default_rng(2).integers(0, SHAPE.n_vocab, SHAPE.n_ctx).tolist()
VARIANTS = {
    "OpenAI's": SHAPE,
    "n_inner": replace(SHAPE, n_inner=40),
    "epsilon": replace(SHAPE, epsilon=1e-2),
    "unscaled": replace(SHAPE, scale_attn=False),
    "by layer": replace(SHAPE, scale_attn_by_layer=True, n_layer=3),
    "untied": replace(SHAPE, tied=False),
    **{name: replace(SHAPE, activation=name, n_layer=1) for name in ACTIVATIONS},
    "all at once": HParams(301, 11, 30, 5, 3, 50, 1e-3, "gelu", False, True, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("hparams", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_equals_the_oracle(hparams: HParams, tmp_path: Path) -> None:
    """Through the files of the format, TensorFlow's graph, and both ONNX graphs."""
    weights = LargerWeights(hparams, seed=11)
    text = [token % hparams.n_vocab for token in TEXT[: hparams.n_ctx]]
    oracle = reference.logits(weights.read, hparams, text)
    tensors = huggingface_tensors(values_of(weights))
    checkpoint = open_checkpoint(save_huggingface(tmp_path / "model", hparams, tensors))
    assert checkpoint.hparams == hparams
    np.testing.assert_allclose(tensorflow.read(checkpoint, text).logits(), oracle, atol=3e-5)
    converted = convert(hparams)
    for kind, (model, wanted) in {
        "standard": standard(converted, hparams),
        "fused": fuse(converted, hparams, STORAGE["fp32"], "float32"),
    }.items():
        (tmp_path / kind).mkdir()
        attach([model], wanted, checkpoint, tmp_path / kind / WEIGHTS)
        onnx.save(model, tmp_path / kind / GRAPH)
        session = open_session(tmp_path / kind / GRAPH, Threads(1))
        slots = SLOTS[kind](session, hparams, 1)
        np.testing.assert_allclose(parity.uncached(slots, text), oracle, atol=3e-5)
        stepwise = parity.cached(slots, text, range(1, len(text)))
        np.testing.assert_allclose(stepwise, oracle[1:], atol=3e-5)


def test_every_activation_has_its_functions() -> None:
    assert set(ACTIVATIONS) == set(graph.ACTIVATIONS) == set(reference.ACTIVATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_exports_in_every_precision(precision: str, tmp_path: Path) -> None:
    """The whole way, parity check included; int8 stays near the oracle."""
    hparams = VARIANTS["all at once"]
    weights = LargerWeights(hparams, seed=1)
    tensors = huggingface_tensors(values_of(weights))
    folder = save_huggingface(tmp_path / "model", hparams, tensors, eos_token_id=300)
    bundle = pipeline.export(
        Recipe("own", precision, checkpoint=folder, output=tmp_path / "bundle")
    )
    assert bundle.manifest.hparams == hparams
    model = GPT2.load(bundle.directory, threads=1)
    text = [token % hparams.n_vocab for token in TEXT[: hparams.n_ctx]]
    slots = model.new_slots(1)
    found, oracle = parity.uncached(slots, text), reference.logits(weights.read, hparams, text)
    assert np.abs(found - oracle).max() < (1e-4 if precision == "fp32" else oracle.std())


def test_values_of_transformers_itself(tmp_path: Path) -> None:
    """Beside the real thing, where it is installed: logits of a saved model and of its bundle."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=300,
        n_positions=20,
        n_embd=24,
        n_head=3,
        n_layer=2,
        activation_function="gelu",
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
        tie_word_embeddings=False,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(torch.tensor([TEXT])).logits[0].numpy()
    found = tensorflow.read(open_checkpoint(tmp_path), TEXT).logits()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
