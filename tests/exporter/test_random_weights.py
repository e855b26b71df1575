"""Random weights: a function of the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from gpt2rt import GPT2
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt_export import pipeline
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import RandomCheckpoint
from small_openai import SHAPE


def test_random_weights_are_a_function_of_seed_and_name() -> None:
    larger = replace(SHAPE, n_layer=3)
    for name, shape in SHAPE.variables().items():
        values = RandomCheckpoint(SHAPE, 5).read(name)
        assert values.shape == shape
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, RandomCheckpoint(larger, 5).read(name))
        assert not np.array_equal(values, RandomCheckpoint(SHAPE, 6).read(name))
    assert RandomCheckpoint(SHAPE, 5).identity != RandomCheckpoint(SHAPE, 6).identity


@pytest.mark.slow
def test_random_weights_are_a_function_of_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        pipeline.export(Recipe("demo", random_seed=seed, output=tmp_path / str(i)))
        for i, seed in enumerate((1, 1, 2))
    )
    assert one.manifest.files == same.manifest.files
    assert one.manifest.files[WEIGHTS] != other.manifest.files[WEIGHTS]
    assert one.manifest.tokenizer == "synthetic"
    text = "any text: é 👋"
    tokenizer = GPT2.load(one.directory).tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text
