"""The CUDA graph and its slots, run by the CPU provider over ordinary memory without a device."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import reference
from batches import Engines
from cuda_device import open_device
from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.interface import cuda
from gpt2rt.bundles.manifest import CUDA_GRAPH
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.cuda import shapes as cuda_shapes
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.shapes import calls_of, finely_padded, total
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.providers import graph_of
from gpt2rt.engine.session import interface_mismatch
from gpt2rt.engine.slots import Part
from gpt2rt_export.onnx_graph.cuda import CUDA
from models import NOISE, TINY, LargerWeights, make_bundle

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda


TEXT = np.random.default_rng(0).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()


def test_logits_equal_oracle_whole_and_token_by_token(
    device: Device, precision: str, tiny_weights: LargerWeights
) -> None:
    oracle = reference.logits(tiny_weights.read, TINY, TEXT)
    noise = 2 * NOISE[PRECISIONS[precision].on_cuda]  # activations are float16, too
    whole = CudaSlots(device, 1).step([Part(0, 0, TEXT, len(TEXT))])
    np.testing.assert_allclose(whole, oracle, atol=noise)
    one = CudaSlots(device, 1)
    steps = [np.array(one.step([Part(0, at, [token])])[0]) for at, token in enumerate(TEXT)]
    np.testing.assert_allclose(steps, oracle, atol=noise)


def test_ragged_rows_equal_those_alone(device: Device) -> None:
    together = CudaSlots(device, 3)
    alone = [CudaSlots(device, 1) for _ in range(3)]
    lengths = [5, 1, 17]
    for row, length in enumerate(lengths):
        together.step([Part(row, 0, TEXT[row : row + length])])
        alone[row].step([Part(0, 0, TEXT[row : row + length])])
    parts = [Part(row, lengths[row], [7 + row]) for row in range(3)]
    batch = np.asarray(together.step(parts))
    for row, part in enumerate(parts):
        single = np.asarray(alone[row].step([replace(part, slot=0)]))
        np.testing.assert_allclose(batch[row], single[0], atol=5e-3)


def test_copies_reads_and_writes_carry_a_past_over(device: Device) -> None:
    three = CudaSlots(device, 3)
    three.step([Part(0, 0, TEXT[:9])])
    three.copy(0, 1, 9)
    kept = three.read(0, 2, 9)
    assert kept.shape == (TINY.n_layer, 2, TINY.n_head, 7, TINY.kv_width)
    three.step([Part(2, 0, TEXT[:2])])
    three.write(2, 2, kept)
    rows = np.asarray(three.step([Part(slot, 9, [TEXT[9]]) for slot in range(3)]))
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


MIXED = [
    Part(0, 9, [7]),
    Part(1, 0, TEXT[:12], 12),
    Part(2, 0, TEXT[12:17], 2),
    Part(3, 4, TEXT[20:23], 0),
    Part(4, 20, [8]),
    Part(5, 5, TEXT[:3], 2),
]


def test_any_mixture_gives_the_rows_that_each_part_gives_alone(
    device: Device,
) -> None:
    """Whatever the order of the parts; slots that take no part, or not yet, keep their tokens."""
    for order in (range(6), (4, 2, 5, 1, 3, 0), (1, 4), (4,)):
        mixed, parts = CudaSlots(device, 7), [MIXED[number] for number in order]
        mixed.step([Part(slot, 0, TEXT[slot : slot + 30], 0) for slot in range(7)])
        rows = np.asarray(mixed.step(parts))
        more = [Part(slot, 30 if slot in (3, 6) else 25, [9]) for slot in range(7)]
        firsts = np.cumsum([0, *(part.wanted for part in parts)])
        assert len(rows) == firsts[-1]
        after = np.asarray(mixed.step([part for part in more if part.slot == 6]))
        for part, first in zip(parts, firsts, strict=False):
            alone = CudaSlots(device, 1)
            alone.step([Part(0, 0, TEXT[part.slot : part.slot + 30], 0)])
            single = np.asarray(alone.step([replace(part, slot=0)]))
            np.testing.assert_allclose(rows[first : first + part.wanted], single, atol=5e-3)
        alone = CudaSlots(device, 1)
        alone.step([Part(0, 0, TEXT[6:36], 0)])
        kept = np.asarray(alone.step([Part(0, 30, [9])]))
        np.testing.assert_allclose(after, kept, atol=5e-3)


def test_buffers_are_used_again_and_never_by_two(device: Device) -> None:
    """A captured CUDA graph is bound to their addresses."""
    first, second = CudaSlots(device, 3), CudaSlots(device, 3)
    assert first.buffers is not second.buffers
    logits = np.asarray(first.step([Part(0, 0, TEXT[:5])]))
    step = np.array(first.step([Part(0, 5, [7])])[0])
    kept = first.buffers
    del first
    assert CudaSlots(device, 1).buffers is not kept
    again = CudaSlots(device, 4)
    assert again.buffers is kept
    np.testing.assert_array_equal(again.step([Part(0, 0, TEXT[:5])]), logits)
    np.testing.assert_array_equal(np.array(again.step([Part(0, 5, [7])])[0]), step)


def test_threads_do_not_disturb_each_other(device: Device) -> None:
    """Steps are captured in one thread while others copy, allocate and free."""

    def text(start: int) -> list[int]:
        slots = CudaSlots(device, 2)
        tokens = [int(np.argmax(slots.step([Part(0, 0, TEXT[start : start + 5])])[0]))]
        for length in range(5, 25):
            tokens.append(int(np.argmax(slots.step([Part(0, length, tokens[-1:])])[0])))
        return tokens

    alone = [text(start) for start in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(text, range(8))) == alone


def test_the_graph_is_the_one_of_the_contract(
    device: Device, tiny_bundles: dict[str, Bundle], precision: str
) -> None:
    assert interface_mismatch(device.session, TINY, "cuda", "float16") is None
    model = onnx.load(graph_of(tiny_bundles[precision], "cuda"), load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["GroupQueryAttention"] == TINY.n_layer
    assert kinds["SkipLayerNormalization"] == 2 * TINY.n_layer
    assert kinds["LayerNormalization"] == 1
    # Nothing reckons with shapes, which ONNX Runtime would put on the CPU: no CUDA graph then.
    assert not {"Shape", "Concat", "ConstantOfShape", "Range"} & set(kinds)


def test_every_precision_has_a_graph_for_cuda(tiny_bundles: dict[str, Bundle]) -> None:
    assert set(tiny_bundles) == set(CUDA)
    assert all(CUDA_GRAPH in bundle.manifest.files for bundle in tiny_bundles.values())


def test_weights_in_32_bits_are_rounded_as_an_export_would(
    tiny_bundles: dict[str, Bundle],
) -> None:
    wide, half = (CudaSlots(open_device(tiny_bundles[name]), 1) for name in ("fp32", "fp16"))
    part = Part(0, 0, TEXT, len(TEXT))
    assert np.array_equal(wide.step([part]), half.step([part]))


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
    device = open_device(bundle)
    oracle = reference.logits(weights.read, TINY, TEXT)
    assert oracle.max() < -100
    found = CudaSlots(device, 1).step([Part(0, 0, TEXT, len(TEXT))])
    np.testing.assert_allclose(found, oracle, atol=0.04)

    opened = ort.InferenceSession(graph_of(bundle, "cuda"), providers=["CPUExecutionProvider"])
    h, size = TINY, len(TEXT)
    past = np.zeros((1, h.n_head, h.n_ctx, h.kv_width), np.float16)
    names = [port.name for pair in cuda(TINY).past for port in pair]
    feeds = {
        "X": np.array([TEXT], np.int32),
        "position": np.arange(size, dtype=np.int32)[None],
        "rows": np.arange(size, dtype=np.int32),
        "seqlens_k": np.array([size - 1], np.int32),
        "total_sequence_length": np.array(size, np.int32),
        **dict.fromkeys(names, past),
    }
    (rounded,) = opened.run(["logits"], feeds)
    assert np.abs(rounded).max() < 16


def test_a_sample_is_the_same_alone_and_in_a_batch(
    tiny_models: dict[str, GPT2], device: Device, precision: str
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
                ("the last of them", replace(params, top_p=0.5), 9),
            ]
        )
    ]

    def run(count: int, budget: int = 256) -> dict[int, tuple[int, ...]]:
        engines = Engines(partial(CudaSlots, device))
        pieces = engines.run(requests, model.tasks, count, budget)
        return {p.sample: p.completion.tokens for p in pieces if p.completion}

    together = run(4)
    assert together == run(1) == run(2) == run(3, budget=5)
    lengths = {sample: len(tokens) for sample, tokens in together.items()}
    assert lengths == {0: 9, 1: 4, 2: 12, 3: 7, 4: 9}


def test_no_prefix_is_copied(
    tiny_bundles: dict[str, Bundle],
    device: Device,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies take a device longer than computing the same again."""
    model = GPT2.load(tiny_bundles[precision].directory)
    monkeypatch.setattr(model.runtime, "slots", partial(CudaSlots, device))
    stopping, params = Stopping(3, end_of_text=False), SamplingParams(temperature=0)
    texts = [model.generate(TEXT[:40], params, stopping) for _ in range(2)]
    assert texts[0].tokens == texts[1].tokens
    assert texts[1].cached_tokens == 0
    assert model.prefixes is not None
    assert model.prefixes.statistics.prompts == 0


# ---- calls and their sizes


def test_texts_are_the_same_whatever_the_total_length(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured step keeps its total, which is at least the length of every sequence."""
    slots, found = CudaSlots(device, 3), []
    for totals in ((), (8, 16, 24), (5, 6, 7, 8, 9, 40)):
        monkeypatch.setattr(cuda_shapes, "TOTALS", totals)
        slots.step([Part(slot, 0, TEXT[slot : slot + 4 + slot]) for slot in range(3)])
        steps = [
            slots.step([Part(slot, 4 + slot + at, [TEXT[at]]) for slot in range(3)])
            for at in range(30)
        ]
        found.append(np.array(steps))
    np.testing.assert_allclose(found[1], found[0], atol=5e-3)
    np.testing.assert_allclose(found[2], found[0], atol=5e-3)


@pytest.mark.parametrize("rows", [1, 8, 32, 128])
def test_no_sequence_is_longer_than_the_total(rows: int) -> None:
    found = [total(rows, length, 1024) for length in range(1, 1025)]
    assert all(length <= most <= 1024 for length, most in enumerate(found, 1))
    assert set(found) == ({256, 512, 1024} if rows < 32 else {1024})
    assert total(rows, 40, 48) == 48


def test_sizes_of_whole_texts_are_few_and_little_is_padded() -> None:
    found = [finely_padded(size) for size in range(1, 2049)]
    assert found == sorted(found)
    assert all(size <= to <= max(1.25 * size, size + 15) for size, to in enumerate(found, 1))
    assert len(set(found)) < 32
    assert [finely_padded(size) for size in set(found)] == list(set(found))


def test_prompts_are_read_side_by_side_unless_padding_costs_more_than_a_call() -> None:
    def calls(lengths: list[int]) -> list[int]:
        parts = [Part(slot, 0, [1] * length, 2) for slot, length in enumerate(lengths)]
        return [len(numbers) for numbers in calls_of(parts)]

    assert calls([64] * 32) == [32]
    assert calls([10, 90] * 8) == [16]
    assert calls([5] * 30 + [1000] + [5] * 3) == [30, 3, 1]
    assert calls([1000] * 4) == [4]


def test_shapes_that_are_read_often_are_kept_and_captured(device: Device) -> None:
    slots = CudaSlots(device, 4)
    reads = slots.buffers.reads
    reads.clear()
    slots.buffers.uses.clear()
    found = []
    for _ in range(5):
        found.append(np.array(slots.step([Part(n, 0, TEXT[n : n + 3 + n]) for n in range(3)])))
        slots.step([Part(3, 0, TEXT[:5])])
    assert len(reads) == 2
    assert all(forward.call.graph is not None for forward in reads.values())
    for logits in found:
        np.testing.assert_array_equal(logits, found[0])
