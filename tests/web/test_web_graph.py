"""The graph for onnxruntime-web, run by ONNX Runtime itself: its ops are there, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2rt import GPT2, HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt.scoring.scoring import Passage
from gpt2rt_export.web import graph
from models import SAME, LargerWeights, make_bundle
from page_graphs import Page, logprobs

IDS = [7, 3, 299, 12, 45, 45, 0, 200, 31, 8, 150, 99, 4]


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("pieces", [[13], [1] * 13, [5, 1, 4, 3]])
def test_scores_are_those_of_the_runtime(
    tiny_bundles: dict[str, Bundle],
    tiny_models: dict[str, GPT2],
    tmp_path: Path,
    precision: str,
    pieces: list[int],
) -> None:
    page, ids = Page(tiny_bundles[precision], tmp_path), list(IDS)
    found = np.concatenate([page.read([ids.pop(0) for _ in range(count)]) for count in pieces])
    assert page.columns == (320 if precision == "int8" else 300)
    (scored,) = tiny_models[precision].score_tokens([Passage(tuple(IDS), 1)])
    own = logprobs(found)[range(len(IDS) - 1), IDS[1:]]
    np.testing.assert_allclose(own, scored.logprobs, atol=SAME[precision])


@pytest.mark.parametrize(
    "hparams",
    [
        HParams(n_vocab=300, n_ctx=48, n_embd=32, n_head=4, n_layer=2, tied=False),
        HParams(n_vocab=300, n_ctx=48, n_embd=32, n_head=4, n_layer=2, scale_attn_by_layer=True),
    ],
)
def test_other_shapes(tmp_path: Path, hparams: HParams) -> None:
    bundle = make_bundle(tmp_path / "bundle", LargerWeights(hparams, seed=3), "int8")
    page = Page(bundle, tmp_path)
    gpt2 = GPT2.load(bundle.directory, threads=1)
    (scored,) = gpt2.score_tokens([Passage(tuple(IDS), 1)])
    own = logprobs(page.read(IDS))[range(len(IDS) - 1), IDS[1:]]
    np.testing.assert_allclose(own, scored.logprobs, atol=SAME["int8"])


# Of scores, by rows of floats where the runtime rounds them to 8 bits; about twice what was seen.
FLOATS = 0.05


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("pieces", [[13], [5, 1, 4, 3]])
def test_scores_on_the_gpu(
    tiny_bundles: dict[str, Bundle],
    tiny_models: dict[str, GPT2],
    tmp_path: Path,
    precision: str,
    pieces: list[int],
) -> None:
    page, ids = Page(tiny_bundles[precision], tmp_path, "webgpu"), list(IDS)
    found = np.concatenate([page.read([ids.pop(0) for _ in range(count)]) for count in pieces])
    (scored,) = tiny_models[precision].score_tokens([Passage(tuple(IDS), 1)])
    own = logprobs(found)[range(len(IDS) - 1), IDS[1:]]
    np.testing.assert_allclose(own, scored.logprobs, atol=FLOATS)


def test_the_devices_of_a_bundle(tiny_bundles: dict[str, Bundle], odd_bundle: Bundle) -> None:
    found = {name: graph.devices(bundle) for name, bundle in tiny_bundles.items()}
    assert found["int8"] == ["wasm", "webgpu"]
    assert found["int4"] == ["webgpu"]
    assert found["fp16"] == found["fp32"] == ["wasm"]
    with pytest.raises(InvalidSetting, match="not a graph for the browser; export with --int8"):
        graph.check(odd_bundle)


def test_too_large_a_model_is_refused(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGEST", 1000)
    with pytest.raises(InvalidSetting, match="take a smaller model"):
        graph.check(tiny_bundles["fp32"])


def test_a_damaged_graph_is_told(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.directory / "model.onnx").write_bytes(b"\x08\xff nothing")
    with pytest.raises(BadBundle, match=r"model\.onnx: no ONNX graph"):
        graph.write(bundle, tmp_path)
