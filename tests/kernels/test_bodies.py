"""Without the library of kernels every model runs, on the bodies of the graph's functions."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2rt import GPT2, SamplingParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.library import find
from gpt2rt.engine.slots import Part
from gpt2rt.kernels.library import VARIABLE, kernels
from models import NOISE

TEXT = [5, 200, 17, 3, 90, 41, 7, 250, 11, 299]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_bodies_and_kernels_agree(
    precision: str, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels().path is None:
        pytest.skip(f"no kernels: {kernels().problem}")
    parts = [Part(0, 0, TEXT, 10), Part(1, 0, TEXT[3:7], 2), Part(2, 0, TEXT[:1])]
    with GPT2(tiny_bundles[precision]) as model:
        wanted, vectors = model.new_slots(3).step(parts), model.embed("one day").vectors
    monkeypatch.setenv(VARIABLE, "off")
    with GPT2(tiny_bundles[precision]) as model:
        assert not model.runtime.kernels
        found = model.new_slots(3).step(parts)
        np.testing.assert_allclose(found, wanted, atol=NOISE[precision], rtol=0)
        assert np.abs(model.embed("one day").vectors - vectors).max() < 2 * NOISE[precision]


def test_the_demo_writes_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    with GPT2(find("demo")) as model:
        assert model.generate("Once, in a village", SamplingParams(seed=1)).text
