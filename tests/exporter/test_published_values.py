"""Models as people publish them do in float32 what Transformers does with the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

import published
from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt_export import pipeline
from gpt2rt_export.recipe import Recipe

VALUES = Path(__file__).with_name("published.npz")  # written by published_values.py
Model = tuple[GPT2, str, dict[str, NDArray[Any]]]


@pytest.fixture(scope="module", params=published.MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model by the whole way of its export, its text, and what Transformers makes of both."""
    home = tmp_path_factory.mktemp("published")
    published.MODELS[request.param](home / "model")
    bundle = pipeline.export(
        Recipe("own", "fp32", checkpoint=home / "model", output=home / "bundle")
    )
    with np.load(VALUES) as every:
        start = f"{request.param}/"
        values = {name.removeprefix(start): every[name] for name in every if start in name}
    text = published.TEXTS.get(request.param, published.TEXT)
    return GPT2.load(bundle.directory, threads=1), text, values


@pytest.mark.slow
def test_the_prompt_and_the_greedy_text_are_the_same(model: Model) -> None:
    gpt2, text, values = model
    stopping = Stopping(len(values["greedy"]), end_of_text=False)
    done = gpt2.generate(text, SamplingParams(temperature=0), stopping)
    assert done.prompt_tokens == tuple(values["ids"])
    assert done.tokens == tuple(values["greedy"])
    assert done.text == str(values["text"])


def test_the_surprisal_of_every_token_is_the_same(model: Model) -> None:
    gpt2, text, values = model
    bits = [token.bits for token in gpt2.score(text).tokens]
    np.testing.assert_allclose(bits, values["bits"].astype(float), atol=2e-5)


def test_the_hidden_states_of_every_layer_are_the_same(model: Model) -> None:
    gpt2, text, values = model
    layers = range(gpt2.hparams.n_layer + 1)
    states = [gpt2.embed(text, EmbedParams(layer=layer)).vectors for layer in layers]
    np.testing.assert_allclose(states, values["hidden"].astype(float), atol=2e-5)
