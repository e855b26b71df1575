"""The demo in every precision and graph: the texts, scores and states of TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow")

from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import embedding
from gpt2rt.bundles.manifest import EMBED, GRAPH, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt_export import pipeline
from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.verify import agreement
from gpt2rt_export.verify import reference as tensorflow

pytestmark = pytest.mark.slow  # most of these run TensorFlow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The embedded demo checkpoint, exported for real, in every precision and graph."""
    home = tmp_path_factory.mktemp("home")
    recipes = [Recipe("demo", precision, output=home / precision) for precision in PRECISIONS]
    recipes.append(Recipe("demo", graph="standard", output=home / "standard"))
    return {recipe.output.name: pipeline.export(recipe) for recipe in recipes if recipe.output}


# Largest difference of logits in their deviations; change of perplexity on its held-out text.
CLOSE = {"fp32": (1e-3, 1e-4), "fp16": (0.02, 2e-3), "int8": (1.0, 0.05), "int4": (4.0, 0.2)}


def test_demo_reaches_its_parity(demo: dict[str, Bundle]) -> None:
    for bundle in demo.values():
        largest, change = CLOSE[bundle.manifest.precision]
        for run in ("uncached", "cached"):
            measured = bundle.parity()[run]
            relative = measured["largest"] / measured["deviation"]
            assert relative < largest
        perplexity = bundle.parity()["perplexity"]
        assert abs(perplexity["change"]) < change


def test_demo_graphs_write_the_same_text(demo: dict[str, Bundle]) -> None:
    greedy = SamplingParams(temperature=0)
    texts = {
        name: GPT2.load(demo[name].directory, threads=1).generate(
            None, greedy, Stopping(128, end_of_text=False)
        )
        for name in ("fp32", "standard")
    }
    assert texts["fp32"].tokens == texts["standard"].tokens


def test_demo_greedy_equals_tensorflow(demo: dict[str, Bundle]) -> None:
    """128 greedy tokens: TensorFlow's argmax agrees at every position of the text so far."""
    from gpt2rt_export.sources import OpenAICheckpoint

    completion = GPT2.load(demo["fp32"].directory).generate(
        "The", SamplingParams(temperature=0), Stopping(128, end_of_text=False)
    )
    fed = [*completion.prompt_tokens, *completion.tokens]
    logits = tensorflow.read(OpenAICheckpoint(catalog.demo_checkpoint()), fed).logits()
    best = np.argmax(logits[len(completion.prompt_tokens) - 1 : -1], axis=-1)
    assert best.tolist() == list(completion.tokens)


@pytest.mark.parametrize("kind", ["fp32", "standard"])
def test_demo_scores_equal_tensorflow(demo: dict[str, Bundle], kind: str) -> None:
    """Log-probabilities of a whole context, and of more text than that, in windows."""
    from gpt2rt_export.sources import OpenAICheckpoint

    model = GPT2.load(demo[kind].directory)
    text = (catalog.demo_checkpoint() / "heldout.txt").read_text(encoding="utf-8")[:3000]
    tokens = [model.tokenizer.end_of_text, *model.tokenizer.encode(text)]
    n_ctx = model.hparams.n_ctx
    assert n_ctx + 100 < len(tokens)
    scores = model.score(text, stride=100).tokens
    done = 1
    for end in [*range(n_ctx + 1, len(tokens), 100), len(tokens)]:
        read = tokens[max(0, end - n_ctx - 1) : end]
        logits = tensorflow.read(OpenAICheckpoint(catalog.demo_checkpoint()), read[:-1]).logits()
        pairs = list(zip(logits, read[1:], strict=True))[done - end :]
        wanted = [agreement.log_softmax(row)[token] for row, token in pairs]
        found = [score.logprob for score in scores[done - 1 : end - 1]]
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        done = end


@pytest.mark.parametrize("kind", ["fp32", "standard"])
def test_demo_hidden_states_equal_tensorflow(demo: dict[str, Bundle], kind: str) -> None:
    import tensorflow as tf

    from gpt2rt_export.sources import OpenAICheckpoint

    model = GPT2.load(demo[kind].directory)
    hparams = model.hparams
    checkpoint = OpenAICheckpoint(catalog.demo_checkpoint())
    weights = {
        name.removeprefix("model/"): tf.constant(checkpoint.read(name))
        for name in hparams.variables()
    }
    text = "Once, in a village by the sea, there lived an old fisherman."
    tokens = model.tokenizer.encode(text)
    x = graph.embed(tf.constant([tokens], tf.int32), tf.constant(0), weights)
    states, past = [x], graph.empty_past(hparams, 1)[:, 0]
    for i in range(hparams.n_layer):
        x, _ = graph.block(x, past, i, weights, hparams)
        states.append(x)
    states[-1] = graph.norm(x, "ln_f", weights, hparams)
    for layer, wanted in enumerate(states):
        found = model.embed(text, EmbedParams(layer=layer)).vectors
        np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-4)


def test_the_embedding_graph_is_a_part_of_the_whole(demo: dict[str, Bundle]) -> None:
    """No logits, and no weight that the bundle's own graph does not read."""
    for bundle in demo.values():
        whole, part = (
            onnx.load(bundle.directory / name, load_external_data=False) for name in (GRAPH, EMBED)
        )
        external, own = (
            {w.name: str(w.external_data) for w in model.graph.initializer}
            for model in (whole, part)
        )
        assert own.items() <= external.items()
        m = bundle.manifest
        ports = embedding(m.hparams, m.graph, m.kv).outputs
        assert [value.name for value in part.graph.output] == [port.name for port in ports]
        assert not any("logits" in node.output for node in part.graph.node)
    onnx.checker.check_model(str(demo["standard"].directory / EMBED), full_check=True)


def test_export_is_repeatable(demo: dict[str, Bundle], tmp_path: Path) -> None:
    again = pipeline.export(Recipe("demo", "int8", output=tmp_path / "again"))
    assert again.manifest == demo["int8"].manifest


def test_the_embedded_bundle_is_what_the_exporter_makes(demo: dict[str, Bundle]) -> None:
    embedded = Bundle.open(catalog.demo_bundle()).manifest.files
    assert set(embedded) == set(demo["int8"].manifest.files)
    assert embedded[WEIGHTS] == demo["int8"].manifest.files[WEIGHTS]


def test_standard_bundle_passes_the_checker(demo: dict[str, Bundle]) -> None:
    onnx.checker.check_model(str(demo["standard"].directory / GRAPH), full_check=True)
    model = onnx.load(demo["standard"].directory / GRAPH, load_external_data=False)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


# ---- publishing


def test_parity_covers_the_whole_context(demo: dict[str, Bundle]) -> None:
    report = demo["int8"].parity()
    assert (
        report["tokens"]
        == report["uncached"]["positions"]
        == HParams.read(catalog.demo_checkpoint() / "hparams.json").n_ctx
    )
