"""The CUDA graph and its slots, run by the CPU provider over ordinary memory without a device."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import reference
from gpt2rt import GPT2, HParams, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.interface import cuda
from gpt2rt.bundles.manifest import CUDA_GRAPH
from gpt2rt.engine import providers as providers_module
from gpt2rt.engine.cuda import CudaSlots, Device
from gpt2rt.engine.cuda_memory import CudaMemory, HostMemory
from gpt2rt.engine.engine import Engine
from gpt2rt.engine.providers import Threads, graph_of, open_session, provider_for
from gpt2rt.engine.session import interface_mismatch
from gpt2rt.errors import BadBundle, BadLogits, InvalidSetting, ProviderMissing
from gpt2rt.generation.scheduler import Scheduler
from gpt2rt.sampling.filters import candidates, chunk_sums, pick, softmax_weights
from gpt2rt.sampling.sampling import NUMBERS, choose
from gpt2rt.sampling.selection import Draw, Row, Selected
from gpt2rt_export.onnx_graph.cuda import CUDA
from models import NOISE, TINY, LargerWeights, make_bundle

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda
PROVIDER = "cpu" if providers_module.cuda_problem() else "cuda"
MEMORY: type[HostMemory | CudaMemory] = HostMemory if PROVIDER == "cpu" else CudaMemory
TEXT = np.random.default_rng(0).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()
WIDE = HParams(n_vocab=700, n_ctx=24, n_embd=32, n_head=2, n_layer=2)  # more than is selected


@pytest.fixture(params=sorted(CUDA))
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def session(tiny_bundles: dict[str, Bundle], precision: str) -> ort.InferenceSession:
    return open_session(graph_of(tiny_bundles[precision], "cuda"), Threads(1), PROVIDER)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> CudaSlots:
    weights = LargerWeights(WIDE, seed=5)
    bundle = make_bundle(tmp_path_factory.mktemp("wide") / "bundle", weights, "fp16")
    opened = open_session(graph_of(bundle, "cuda"), Threads(1), PROVIDER)
    return Device(opened, WIDE, MEMORY()).slots(8)


def slots(session: ort.InferenceSession, count: int) -> CudaSlots:
    return Device(session, TINY, MEMORY()).slots(count)


def test_logits_equal_oracle_whole_and_token_by_token(
    session: ort.InferenceSession, precision: str, tiny_weights: LargerWeights
) -> None:
    oracle = reference.logits(tiny_weights.read, TINY, TEXT)
    noise = 2 * NOISE[precision]  # activations are float16, too
    whole = slots(session, 1).extend(0, 0, TEXT, range(len(TEXT)))
    np.testing.assert_allclose(whole, oracle, atol=noise)
    one = slots(session, 1)
    steps = [np.array(one.advance([at], [token])[0]) for at, token in enumerate(TEXT)]
    np.testing.assert_allclose(steps, oracle, atol=noise)


def test_ragged_rows_equal_those_alone(session: ort.InferenceSession) -> None:
    together = slots(session, 3)
    alone = [slots(session, 1) for _ in range(3)]
    lengths = [5, 1, 17]
    for row, length in enumerate(lengths):
        together.extend(row, 0, TEXT[row : row + length])
        alone[row].extend(0, 0, TEXT[row : row + length])
    batch = np.asarray(together.advance(lengths, [7, 8, 9]))
    for row, token in enumerate((7, 8, 9)):
        single = np.asarray(alone[row].advance([lengths[row]], [token]))
        np.testing.assert_allclose(batch[row], single[0], atol=5e-3)


def test_copies_reads_and_writes_carry_a_past_over(session: ort.InferenceSession) -> None:
    three = slots(session, 3)
    three.extend(0, 0, TEXT[:9])
    three.copy(0, 1, 9)
    kept = three.read(0, 2, 9)
    assert kept.shape == (TINY.n_layer, 2, TINY.n_head, 7, TINY.kv_width)
    three.extend(2, 0, TEXT[:2])
    three.write(2, 2, kept)
    rows = np.asarray(three.advance([9, 9, 9], [TEXT[9]] * 3))
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


def test_passages_side_by_side_equal_those_alone(session: ort.InferenceSession) -> None:
    tokens = np.array([TEXT[:12], TEXT[12:24]], np.int32)
    both = slots(session, 2).forward(tokens, 0, range(24))
    for row in range(2):
        alone = slots(session, 1).forward(tokens[[row]], 0, range(12))
        np.testing.assert_allclose(both[12 * row : 12 * row + 12], alone, atol=5e-3)


def test_buffers_are_used_again_and_never_by_two(session: ort.InferenceSession) -> None:
    """A captured CUDA graph is bound to their addresses."""
    device = Device(session, TINY, MEMORY())
    first, second = device.slots(3), device.slots(3)
    assert first.buffers is not second.buffers
    logits = first.extend(0, 0, TEXT[:5])
    step = np.array(first.advance([5], [7])[0])
    kept = first.buffers
    del first
    assert device.slots(1).buffers is not kept
    again = device.slots(4)
    assert again.buffers is kept
    np.testing.assert_array_equal(again.extend(0, 0, TEXT[:5]), logits)
    np.testing.assert_array_equal(np.array(again.advance([5], [7])[0]), step)


def test_threads_do_not_disturb_each_other(session: ort.InferenceSession) -> None:
    """Steps are captured in one thread while others copy, allocate and free."""
    device = Device(session, TINY, MEMORY())

    def text(start: int) -> list[int]:
        slots = device.slots(2)
        tokens = [int(slots.extend(0, 0, TEXT[start : start + 5])[0].argmax())]
        for length in range(5, 25):
            tokens.append(int(slots.advance([length], tokens[-1:])[0].ids[0]))
        return tokens

    alone = [text(start) for start in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(text, range(8))) == alone


def test_the_graph_is_the_one_of_the_contract(
    session: ort.InferenceSession, tiny_bundles: dict[str, Bundle], precision: str
) -> None:
    assert interface_mismatch(session, TINY, "cuda", "float16") is None
    model = onnx.load(graph_of(tiny_bundles[precision], "cuda"), load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["GroupQueryAttention"] == TINY.n_layer
    assert kinds["SkipLayerNormalization"] == 2 * TINY.n_layer
    assert kinds["LayerNormalization"] == 1
    # Nothing reckons with shapes, which ONNX Runtime would put on the CPU: no CUDA graph then.
    assert not {"Shape", "Concat", "ConstantOfShape", "Range"} & set(kinds)


def test_only_precisions_with_kernels_have_a_graph_for_cuda(
    tiny_bundles: dict[str, Bundle],
) -> None:
    having = {name for name, b in tiny_bundles.items() if CUDA_GRAPH in b.manifest.files}
    assert having == set(CUDA) == {"fp16", "int4"}


# ---- what is selected on the device


def rows(wide: CudaSlots, draws: list[Draw]) -> Selected:
    count = len(draws)
    for slot in range(count):
        wide.extend(slot, 0, [slot + 1, 2 * slot + 5])
    return wide.advance([2] * count, list(range(10, 10 + count)), draws)


def test_the_likeliest_come_first_and_the_mass_is_the_sum(wide: CudaSlots) -> None:
    for row in rows(wide, [Draw(heat) for heat in (0.5, 1.0, 2.0, 5.0)]):
        logits = np.asarray(row)
        np.testing.assert_array_equal(row.logits, np.sort(logits)[::-1][: len(row.ids)])
        np.testing.assert_array_equal(logits[row.ids], row.logits)
        weights = np.exp((logits.astype(np.float64) - logits.max()) * row.draw.inverse_temperature)
        assert row.normaliser == pytest.approx(weights.sum(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_drawn_token_is_the_one_the_number_falls_on(
    wide: CudaSlots, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature)
    numbers = np.random.default_rng(3).random(64).tolist()
    for start in range(0, 64, 8):
        chosen = [Draw(1 / temperature, number) for number in numbers[start : start + 8]]
        for row in rows(wide, chosen):
            weights = softmax_weights(np.asarray(row), temperature)
            fallen = pick(weights, chunk_sums(weights), row.draw.uniform)
            assert choose(replace(row, fetch=unwanted), params, [0.5]) == fallen


@pytest.mark.parametrize("number", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_the_ends_of_the_unit_interval_fall_on_tokens_that_can_be_drawn(
    wide: CudaSlots, number: float
) -> None:
    for heat in (1.0, 60.0):  # at 60 most weights are 0
        for row in rows(wide, [Draw(heat, float(number))] * 4):
            logits = np.asarray(row)
            assert np.exp((logits[row.drawn] - logits.max()) * np.float32(heat)) > 0


SETTINGS = [
    SamplingParams(temperature=0),
    SamplingParams(top_k=1),
    SamplingParams(top_k=40, temperature=0.7),
    SamplingParams(top_k=200, top_p=0.8, min_p=0.01),
    SamplingParams(top_k=40, typical_p=0.5),
    SamplingParams(top_k=40, top_p=0.5, compat="openai"),
]


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_the_best_and_top_k_give_the_tokens_that_the_whole_row_gives(
    wide: CudaSlots, params: SamplingParams
) -> None:
    random = np.random.default_rng(1)
    for row in rows(wide, [Draw()] * 8):
        without = replace(row, fetch=unwanted)
        for _ in range(20):
            uniforms = random.random(NUMBERS).tolist()
            assert choose(without, params, uniforms) == choose(np.asarray(row), params, uniforms)


def test_logits_far_from_zero_are_as_exact_as_others(tmp_path: Path) -> None:
    """float16 has steps of 1/8 at -128, where the logits of a row may all lie.

    The CPU provider rounds less often than a device, so what it would round is looked at, too.
    """

    @dataclass(frozen=True)
    class Shifted(LargerWeights):
        def read(self, name: str) -> NDArray[np.float32]:
            shift = {"model/ln_f/b": 4, "model/wte": -1}.get(name, 0)
            return super().read(name) + np.float32(shift)

    weights = Shifted(TINY, seed=7)
    bundle = make_bundle(tmp_path / "shifted", weights, "fp16")
    session = open_session(graph_of(bundle, "cuda"), Threads(1), PROVIDER)
    oracle = reference.logits(weights.read, TINY, TEXT)
    assert oracle.max() < -100
    found = slots(session, 1).extend(0, 0, TEXT, range(len(TEXT)))
    np.testing.assert_allclose(found, oracle, atol=0.03)

    model = onnx.load(graph_of(bundle, "cuda"))
    half = onnx.helper.make_tensor_value_info("lm_head/half", onnx.TensorProto.FLOAT16, None)
    model.graph.output.append(half)
    opened = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    h, size = TINY, len(TEXT)
    past = np.zeros((1, h.n_head, h.n_ctx, h.kv_width), np.float16)
    names = [port.name for pair in cuda(TINY).past for port in pair]
    feeds = {
        "X": np.array([TEXT], np.int32),
        "position": np.arange(size, dtype=np.int32)[None],
        "rows": np.arange(size, dtype=np.int32),
        "seqlens_k": np.array([size - 1], np.int32),
        "total_sequence_length": np.array(size, np.int32),
        "heat": np.ones(size, np.float32),
        "uniform": np.zeros(size, np.float32),
        **dict.fromkeys(names, past),
    }
    (rounded,) = opened.run(["lm_head/half"], feeds)
    assert np.abs(rounded).max() < 16


def test_a_greedy_choice_takes_no_random_number(wide: CudaSlots) -> None:
    for row in rows(wide, [Draw()] * 3):
        best = int(np.asarray(row).argmax())
        assert choose(replace(row, fetch=unwanted), SamplingParams(temperature=0), []) == best


def unwanted() -> NDArray[np.float32]:
    raise AssertionError("the whole row was fetched")


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_p=0.3),
        SamplingParams(top_p=0.5, temperature=0.6),
        SamplingParams(top_p=0.5, temperature=0.6, compat="openai"),
        SamplingParams(min_p=0.2),
        SamplingParams(top_p=0.6, min_p=0.1, temperature=0.5),
    ],
    ids=str,
)
def test_a_nucleus_is_drawn_from_as_often_as_it_should_be(
    wide: CudaSlots, params: SamplingParams
) -> None:
    """Over the range of the last random number, every token has its share."""
    for row in rows(wide, [Draw(1 / params.temperature)] * 3):
        without = replace(row, fetch=unwanted)
        ids, found_weights = candidates(np.asarray(row), params)
        weights = np.zeros(WIDE.n_vocab)
        weights[slice(None) if ids is None else ids] = found_weights
        sweep = (np.arange(4000) + 0.5) / 4000
        found = Counter(choose(without, params, [number]) for number in sweep)
        assert set(found) <= set(np.flatnonzero(weights).tolist())
        shares = np.array([found[token] for token in range(WIDE.n_vocab)]) / len(sweep)
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=2 / len(sweep) + 1e-4)


def test_what_the_selection_cannot_tell_comes_from_the_whole_row() -> None:
    logits = np.linspace(0, 1, 700).astype(np.float32)
    order = np.argsort(-logits)[:256]
    fetched = []

    def fetch() -> NDArray[np.float32]:
        fetched.append(1)
        return logits

    row = Row(order, logits[order], float(np.exp(logits - 1).sum()), 3, Draw(), 700, fetch)
    settings = [
        SamplingParams(top_p=0.99),
        SamplingParams(min_p=0.1),
        SamplingParams(typical_p=0.9),
        SamplingParams(top_k=300),
    ]
    for number, params in enumerate(settings, 1):
        assert choose(row, params, [0.5] * NUMBERS) == choose(logits, params, [0.5] * NUMBERS)
        assert len(fetched) == number
    flat = replace(row, logits=np.ones(256, np.float32))  # ties go on beyond what was selected
    choose(flat, SamplingParams(top_k=9), [0.5] * NUMBERS)
    assert len(fetched) == len(settings) + 1
    broken = replace(row, normaliser=float("nan"), fetch=lambda: np.full(700, np.nan, np.float32))
    with pytest.raises(BadLogits):
        choose(broken, SamplingParams(), [0.5] * NUMBERS)


def test_a_sample_is_the_same_alone_and_in_a_batch(
    tiny_models: dict[str, GPT2], session: ort.InferenceSession, precision: str
) -> None:
    """Generation on device slots with all settings; penalties and log-probabilities copy rows."""
    model = tiny_models[precision]
    params = SamplingParams(seed=3, temperature=0.9)
    requests = [
        Request(prompt, chosen, Stopping(length), sample=n, logprobs=n == 3)
        for n, (prompt, chosen, length) in enumerate(
            [
                ("a", params, 9),
                ("many words here", replace(params, top_k=5), 4),
                ("x y", replace(params, repetition_penalty=1.3), 12),
                ("one two three", replace(params, temperature=0.0), 7),
            ]
        )
    ]

    def run(count: int) -> dict[int, tuple[int, ...]]:
        engine = Engine(slots(session, count))
        pieces = Scheduler(engine, TINY.n_ctx, model.tasks.begin).run(requests)
        return {p.sample: p.completion.tokens for p in pieces if p.completion}

    together = run(4)
    assert together == run(1) == run(2)
    assert {sample: len(tokens) for sample, tokens in together.items()} == {0: 9, 1: 4, 2: 12, 3: 7}


# ---- which provider it is


def test_auto_is_the_cpu_where_there_is_no_cuda(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: "no such thing here")
    for bundle in tiny_bundles.values():
        assert provider_for(bundle, "auto") == provider_for(bundle, "cpu") == "cpu"
    with pytest.raises(ProviderMissing, match="CUDA cannot be had: no such thing here"):
        provider_for(tiny_bundles["fp16"], "cuda")


def test_auto_is_cuda_where_the_bundle_has_a_graph_for_it(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: None)
    chosen = {name: provider_for(bundle, "auto") for name, bundle in tiny_bundles.items()}
    assert chosen == {"fp16": "cuda", "int4": "cuda", "int8": "cpu", "fp32": "cpu"}
    with pytest.raises(ProviderMissing, match=r"cannot run on CUDA.*--fp16"):
        provider_for(tiny_bundles["int8"], "cuda")
    with pytest.raises(InvalidSetting, match="cpu, cuda or auto, not 'gpu'"):
        provider_for(tiny_bundles["fp16"], "gpu")


def test_a_silent_fall_back_to_the_cpu_is_an_error(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime takes the CPU where CUDA's libraries are missing, and says so in its log."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        if providers_module.cuda_problem() is None:
            pytest.skip("this machine has CUDA")
        with pytest.raises(ProviderMissing, match=r"would have run on CPUExecutionProvider"):
            open_session(graph_of(tiny_bundles["fp16"], "cuda"), Threads(1), "cuda")
    with pytest.raises(ProviderMissing, match=r"CUDA cannot be had: .*(driver|without it|install)"):
        GPT2(tiny_bundles["fp16"], provider="cuda")


def test_auto_takes_the_cpu_where_cuda_does_not_start(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    if providers_module.cuda_problem() is None:
        pytest.skip("this machine has CUDA")
    monkeypatch.setattr(providers_module, "cuda_problem", lambda: None)
    assert GPT2(tiny_bundles["fp16"], Threads(1), "auto").provider == "cpu"
    with pytest.raises(ProviderMissing, match="cuda"):
        GPT2(tiny_bundles["fp16"], Threads(1), "cuda")


@pytest.mark.parametrize(
    ("driver", "built", "told"),
    [(12040, "13.0", "CUDA up to 12.4"), (13000, "13.2", None), (13020, "12.8", None)],
)
def test_a_driver_that_is_too_old_is_told(driver: int, built: str, told: str | None) -> None:
    def version(pointer: Any) -> int:
        pointer._obj.value = driver
        return 0

    library: Any = SimpleNamespace(cuDriverGetVersion=version)
    problem = providers_module.driver_problem(library, built)
    assert (problem is None) if told is None else (told in (problem or ""))


def test_a_graph_that_fails_is_an_error_of_ours(session: ort.InferenceSession) -> None:
    if PROVIDER == "cuda":
        pytest.skip("a device does not look whether a token is in the vocabulary")
    with pytest.raises(BadBundle, match="cannot run the graph"):
        slots(session, 1).extend(0, 0, [TINY.n_vocab + 1])
