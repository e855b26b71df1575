"""The graph for onnxruntime-web, run by ONNX Runtime itself: its ops are there, too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from gpt2rt import GPT2, HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt.scoring.scoring import Passage
from gpt2rt_export.web import graph
from models import SAME, LargerWeights, make_bundle

IDS = [7, 3, 299, 12, 45, 45, 0, 200, 31, 8, 150, 99, 4]


class Page:
    """What the page does with the graph of a device, in Python."""

    def __init__(self, bundle: Bundle, place: Path, device: str = "wasm") -> None:
        self.hparams = bundle.manifest.hparams
        written = graph.write(bundle, place)
        self.columns = written.columns
        if device == "webgpu":
            make_rows(place / "weights.bin", written.tiles)
        self.session = ort.InferenceSession(place / written.graphs[device])
        shape = (1, self.hparams.n_head, self.hparams.n_ctx, self.hparams.kv_width)
        names = [x.name for x in self.session.get_inputs() if x.name.startswith("past")]
        self.past = {name: np.full(shape, 3, np.float32) for name in names}  # what was there before
        self.length = 0

    def read(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits after each of further tokens."""
        numbers = np.arange(len(ids), dtype=np.int32)
        total = self.length + len(ids)
        feeds: dict[str, Any] = {
            "tokens": np.array(ids, np.int32),
            "positions": numbers + np.int32(self.length),
            "rows": numbers,
            "lengths": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        logits, *present = self.session.run(None, feeds | self.past)
        self.past = dict(zip(self.past, present, strict=True))
        self.length += len(ids)
        return np.asarray(logits[:, : self.hparams.n_vocab], np.float32)


def make_rows(weights: Path, tiles: list[list[int]]) -> None:
    """Turn the tiles [count,K,width] at some offsets of a file into rows."""
    data = np.fromfile(weights, np.uint8)
    for offset, *sizes in tiles:
        part = slice(offset, offset + math.prod(sizes))
        data[part] = data[part].reshape(sizes).transpose(0, 2, 1).ravel()
    data.tofile(weights)


def logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


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
