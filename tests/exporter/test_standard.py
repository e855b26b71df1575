"""Standard bundles are plain ONNX for any runtime, and onnxruntime-genai can load them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow")

import onnxruntime as ort

import reference
from checkpoints import huggingface_tensors, save_huggingface, values_of
from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import GRAPH, Bundle
from gpt2rt_export import pipeline
from gpt2rt_export.onnx_graph import genai
from gpt2rt_export.recipe import Recipe
from models import LargerWeights

SHAPE = HParams(301, 16, 24, 3, 2, 40, 1e-4, "gelu", True, True, False)
WEIGHTS = LargerWeights(SHAPE, seed=9)
TEXT = np.random.default_rng(4).integers(0, 300, 16).tolist()


@pytest.fixture(scope="module")
def oracle() -> np.ndarray:
    return reference.logits(WEIGHTS.read, SHAPE, TEXT)


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A standard bundle of a model that differs from OpenAI's in every choice."""
    home = tmp_path_factory.mktemp("standard")
    tensors = huggingface_tensors(values_of(WEIGHTS))
    folder = save_huggingface(home / "model", SHAPE, tensors, eos_token_id=300)
    return pipeline.export(
        Recipe("own", graph="standard", checkpoint=folder, output=home / "bundle")
    )


def bare(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", [GRAPH, genai.GRAPH])
def test_the_graphs_are_plain_onnx(variant: Bundle, name: str) -> None:
    onnx.checker.check_model(str(variant.directory / name), full_check=True)
    model = onnx.load(variant.directory / name, load_external_data=False)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx", "ai.onnx.ml"}
    assert not model.functions


def test_a_bare_session_runs_it(variant: Bundle, oracle: np.ndarray) -> None:
    session = bare(variant.directory / GRAPH)
    past = np.zeros(SHAPE.past_shape(1, 0), np.float32)
    for start, end in ((0, 5), (5, 6), (6, 16)):
        feeds = {"X": np.array([TEXT[start:end]], np.int32), "past": past}
        logits, past = session.run(["logits", "present"], feeds)
        np.testing.assert_allclose(logits[0], oracle[start:end], atol=3e-5)
    assert past.shape == SHAPE.past_shape(1, 16)


def test_onnx_own_evaluator_runs_it(variant: Bundle, oracle: np.ndarray) -> None:
    """No ONNX Runtime at all: the operators mean what the standard says."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(variant.directory / GRAPH)
    past = np.zeros(SHAPE.past_shape(1, 0), np.float32)
    feeds = {"X": np.array([TEXT], np.int32), "past": past}
    logits = ReferenceEvaluator(model).run(["logits"], feeds)[0]
    np.testing.assert_allclose(logits[0], oracle, atol=3e-5)


def test_the_graph_for_genai_equals_the_oracle(variant: Bundle, oracle: np.ndarray) -> None:
    session = bare(variant.directory / genai.GRAPH)
    settings = json.loads((variant.directory / genai.CONFIG).read_text())["model"]
    decoder = settings["decoder"]
    assert decoder["filename"] == genai.GRAPH
    assert settings["eos_token_id"] == settings["bos_token_id"] == 300
    wanted = [
        decoder["inputs"][f"past_{kind}_names"] % i for i in range(2) for kind in ("key", "value")
    ]
    made = [
        decoder["outputs"][f"present_{kind}_names"] % i
        for i in range(2)
        for kind in ("key", "value")
    ]
    assert [value.name for value in session.get_inputs()] == ["input_ids", *wanted]
    assert [value.name for value in session.get_outputs()] == ["logits", *made]
    empty = np.zeros((1, SHAPE.n_head, 0, SHAPE.head_width), np.float32)
    pasts = [empty] * len(wanted)
    for start, end in ((0, 5), (5, 6), (6, 16)):
        feeds = dict(zip(wanted, pasts, strict=True))
        feeds["input_ids"] = np.array([TEXT[start:end]], np.int64)
        logits, *pasts = session.run(None, feeds)
        np.testing.assert_allclose(logits[0], oracle[start:end], atol=3e-5)
    assert {past.shape for past in pasts} == {(1, 3, 16, 8)}
    with pytest.raises(Exception, match="input_ids"):
        session.run(None, {**feeds, "input_ids": np.zeros((2, 1), np.int64)})


def test_the_tokenizer_for_genai_is_the_bundles_own(variant: Bundle) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(variant.directory / "tokenizer.json"))
    ours = GPT2.load(variant.directory, threads=1).tokenizer
    for text in ("any text: é 👋", "in  the\n end<|endoftext|>more", ""):
        assert theirs.encode(text).ids == ours.encode(text, special=True)
        assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text


def test_genai_writes_what_gpt2rt_writes(tmp_path: Path) -> None:
    """With the real library, where it is installed."""
    og = pytest.importorskip("onnxruntime_genai")
    recipe = Recipe("demo", graph="standard", output=tmp_path / "bundle")
    bundle = pipeline.export(recipe)
    wanted = GPT2.load(catalog.demo_bundle(), threads=1).tokenizer.encode("Once, in a village")
    model = og.Model(str(bundle.directory))
    tokens = og.Tokenizer(model).encode("Once, in a village")
    assert list(tokens) == wanted
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(tokens) + 40, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    ours = GPT2.load(bundle.directory, threads=1).generate(
        "Once, in a village", SamplingParams(temperature=0), Stopping(40)
    )
    assert list(generator.get_sequence(0)) == [*ours.prompt_tokens, *ours.tokens]
