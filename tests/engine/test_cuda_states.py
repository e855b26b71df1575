"""Hidden states on a device: those of the oracle, and vectors as on a processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

import reference
from cuda_device import open_device
from gpt2rt import GPT2, EmbedParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import STATES
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.cuda import states as cuda_states
from gpt2rt.engine.cuda import whole as cuda_whole
from gpt2rt.engine.cuda.check import check_reader
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.memory import Block
from gpt2rt.engine.cuda.states import StateReader, States
from gpt2rt.engine.runtime import Runtime
from gpt2rt.errors import OutOfMemory
from gpt2rt_export.onnx_graph.cuda import CUDA, pool_cuda
from models import NOISE, TINY, LargerWeights

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda

RANDOM = np.random.default_rng(0)
TEXTS = [RANDOM.integers(0, TINY.n_vocab, n).tolist() for n in (1, 5, 17, TINY.n_ctx, 16, 2)]
WORDS = ["the cat sat", "naïve 🦊 co-op\r\n ends ", "x", "a b", "many words " * 3, "y z"]
LONG = "a long text of more tokens than the context of the model has room for, " * 2


@pytest.fixture
def device(tiny_bundles: dict[str, Bundle]) -> Device:
    return open_device(tiny_bundles["fp16"])


@pytest.fixture
def states(device: Device) -> Iterator[StateReader]:
    with device.reader(StateReader) as reader:
        assert reader is not None
        yield reader


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the calls: how many texts, and of how many tokens."""
    shapes: list[tuple[int, int]] = []
    real = StateReader.call_of

    def watched(self: StateReader, shape: tuple[int, ...], make: Callable[[], States]) -> States:
        shapes.append((shape[0], shape[1]))
        return real(self, shape, make)

    monkeypatch.setattr(StateReader, "call_of", watched)
    return shapes


@pytest.mark.parametrize("precision", sorted(CUDA))
@pytest.mark.parametrize("layer", range(TINY.n_layer + 1))
def test_states_equal_the_oracle_side_by_side(
    tiny_bundles: dict[str, Bundle], tiny_weights: LargerWeights, precision: str, layer: int
) -> None:
    with open_device(tiny_bundles[precision]).reader(StateReader) as states:
        assert states is not None
        found = states.read([(text, None) for text in TEXTS], layer)
    for text, rows in zip(TEXTS, found, strict=True):
        oracle = reference.hidden(tiny_weights.read, TINY, text)[layer]
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, oracle, atol=4 * NOISE[PRECISIONS[precision].on_cuda])


def test_sums_are_those_of_the_states(states: StateReader) -> None:
    weights = [RANDOM.random((n, len(text)), np.float32) for n, text in enumerate(TEXTS)]
    found = states.read(list(zip(TEXTS, weights, strict=True)), TINY.n_layer)
    every = states.read([(text, None) for text in TEXTS], TINY.n_layer)
    for sums, own, rows in zip(found, weights, every, strict=True):
        assert sums.shape == (len(own), TINY.n_embd)
        np.testing.assert_allclose(sums, own @ rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "params",
    [
        EmbedParams(),
        EmbedParams(layer=1, normalize=True),
        *(EmbedParams(by=by, pooling=p) for by in ("word", "text") for p in ("mean", "last")),
        EmbedParams(by="text", pooling="weighted"),
    ],
)
def test_vectors_are_those_of_a_processor(
    device: Device,
    tiny_models: dict[str, GPT2],
    monkeypatch: pytest.MonkeyPatch,
    params: EmbedParams,
    calls: list[tuple[int, int]],
) -> None:
    model = tiny_models["fp16"]
    wanted = list(model.embed_batch(WORDS, params))
    assert not calls
    monkeypatch.setattr(Runtime, "state_reader", lambda self: device.reader(StateReader))
    for batch_size in (None, 1, 4):
        found = list(model.embed_batch(WORDS, params, batch_size=batch_size))
        for one, other in zip(found, wanted, strict=True):
            assert (one.text, one.layer, one.texts, one.spans) == (
                other.text, other.layer, other.texts, other.spans,
            )  # fmt: skip
            np.testing.assert_allclose(one.vectors, other.vectors, atol=5e-3)
    assert calls[0][0] == len(WORDS)


@pytest.mark.parametrize("by", ["token", "word", "text"])
@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_long_texts_are_summed_over_their_windows(
    device: Device,
    tiny_models: dict[str, GPT2],
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    pooling: str,
) -> None:
    model, params = tiny_models["fp16"], EmbedParams(by=by, pooling=pooling, stride=20)
    wanted = model.embed(LONG, params)
    monkeypatch.setattr(Runtime, "state_reader", lambda self: device.reader(StateReader))
    found = model.embed(LONG, params)
    assert found.spans == wanted.spans
    np.testing.assert_allclose(found.vectors, wanted.vectors, atol=5e-3)


def test_where_the_memory_is_too_small_fewer_are_read_side_by_side(
    device: Device, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, int]]
) -> None:
    texts = [(text, None) for text in TEXTS]
    with device.reader(StateReader) as reader:
        assert reader is not None
        wanted = reader.read(texts, TINY.n_layer)
        reader.forget()
        real, limit = device.memory.allocate, 70 * TINY.n_head * TINY.kv_width * 2

        def allocate(size: int, *, host: bool = False) -> Block:
            if size > limit:
                raise OutOfMemory(f"no room for {size} bytes")
            return real(size, host=host)

        monkeypatch.setattr(device.memory, "allocate", allocate)
        found = reader.read(texts, TINY.n_layer)
        sizes = [count * width for count, width in calls]
        assert sizes[-1] <= 64 < sizes[0]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_states_that_depend_on_their_mates_are_found_out(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_reader(device, StateReader)
    assert not device.faults
    device.checked.clear()
    monkeypatch.setattr(
        cuda_states, "beside", lambda texts, width: cuda_whole.beside(texts, width)[::-1]
    )
    check_reader(device, StateReader)
    assert "vectors the slow way" in device.notes[0]
    with device.reader(StateReader) as reader:
        assert reader is None


def test_without_the_graphs_there_is_no_reader(
    device: Device, tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STATES, "states", "none.onnx")
    with device.reader(StateReader) as reader:
        assert reader is None


def test_the_graphs_have_no_op_that_would_run_on_the_processor(
    tiny_bundles: dict[str, Bundle],
) -> None:
    """ONNX Runtime 1.31 runs these on CUDA for these types."""
    path = tiny_bundles["fp16"].directory / STATES["states"]
    model = onnx.load(path, load_external_data=False)
    assert {node.op_type for node in model.graph.node} == {
        "Add", "FastGelu", "FusedMatMul", "Gather", "GroupQueryAttention", "Identity",
        "LayerNormalization", "SkipLayerNormalization",
    }  # fmt: skip
    assert {node.op_type for node in pool_cuda(TINY).graph.node} == {"Cast", "MatMul"}
    onnx.checker.check_model(pool_cuda(TINY), full_check=True)
