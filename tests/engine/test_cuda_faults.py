"""What goes wrong on a device: found out, told, and done the slow way."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from cuda_device import PROVIDER, open_device
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda import forward as cuda_forward
from gpt2rt.engine.cuda import tails as cuda_tails
from gpt2rt.engine.cuda.check import check_ahead, fault
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.forward import Forward
from gpt2rt.engine.cuda.memory import Block
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.cuda.tails import changes
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadBundle, OutOfMemory
from gpt2rt.sampling.selection import BEST
from models import TINY

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda


TEXT = np.random.default_rng(0).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()


class Session:
    """A session that fails, or does nothing, in runs of some numbers of CUDA graphs."""

    def __init__(self, session: ort.InferenceSession, fails: bool) -> None:
        self._session, self._fails = session, fails

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        captured = options.get_run_config_entry("gpu_graph_id") != "-1"
        if captured and self._fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        if self._fails:
            self._session.run_with_iobinding(binding, options)


def test_where_a_capture_fails_calls_run_without(
    device: Device, tiny_bundles: dict[str, Bundle], precision: str
) -> None:
    assert fault(device) is None
    assert device.notes == []
    directory = tiny_bundles[precision].directory
    failing = Device(Session(device.session, fails=True), directory, TINY, device.memory)
    assert fault(failing) is None
    assert len(failing.notes) == 1
    assert "CUDA graphs are not used" in failing.notes[0]
    assert "stream is capturing" in failing.notes[0]
    steps = CudaSlots(failing, 4).buffers.steps
    assert all(forward.call.graph is None for forward in steps.values())


def test_where_the_memory_is_too_small_fewer_prompts_are_read_side_by_side(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = CudaSlots(device, 6)
    parts = [Part(slot, 0, TEXT[slot : slot + 3 + slot], 2) for slot in range(6)]
    wanted = np.array(slots.step(parts))
    slots.buffers.reads.clear()
    real, counts, most = device.memory.allocate, list[int](), 6 * TINY.n_vocab * 2

    def allocate(size: int, *, host: bool = False) -> Block:
        if size > most:
            raise OutOfMemory(f"no room for {size} bytes")
        return real(size, host=host)

    run = Forward.run

    def watched(self: Forward) -> None:
        run(self)
        counts.append(self.call.sizes["B"])

    monkeypatch.setattr(device.memory, "allocate", allocate)
    monkeypatch.setattr(Forward, "run", watched)
    np.testing.assert_allclose(slots.step(parts), wanted, atol=5e-3)
    assert counts == [3, 3]
    most = TINY.n_vocab
    with pytest.raises(OutOfMemory):
        slots.step(parts)


def test_a_device_that_computes_nothing_is_found_out(
    device: Device, tiny_bundles: dict[str, Bundle], precision: str
) -> None:
    directory = tiny_bundles[precision].directory
    dead = Device(Session(device.session, fails=False), directory, TINY, device.memory)
    assert "differ from those read alone" in (fault(dead) or "")


def test_noise_and_wrong_tokens_are_found_out(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        random, logits = np.random.default_rng(0), Forward.logits
        patch.setattr(
            Forward, "logits", lambda *given: (x := logits(*given)) + random.normal(0, 0.2, x.shape)
        )
        assert "differ from those read alone" in (fault(device) or "")
    for name, fake in (
        ("LARGEST_SHARE", 0.01),
        ("changes", lambda draws, width: changes([BEST] * len(draws), width)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(cuda_tails, name, fake)
            assert "not the one to be drawn" in (fault(device) or ""), name


def test_a_device_that_feeds_itself_other_tokens_is_found_out(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_ahead(device)
    assert device.notes == []
    assert CudaSlots(device, 1).ahead
    monkeypatch.setattr(cuda_forward, "feeding", lambda fed, target: [])
    check_ahead(device)
    (note,) = device.notes
    assert note.startswith("on CUDA, each step waits for the one before: after a text of")
    assert not CudaSlots(device, 1).ahead


def test_a_device_that_is_not_trusted_gives_logits_of_prompts_read_one_by_one(
    tiny_bundles: dict[str, Bundle], precision: str, device: Device
) -> None:
    careful = open_device(tiny_bundles[precision])
    careful.distrust("it is made up")
    assert careful.notes == ["on CUDA, the slow way: it is made up"]
    slow, quick = CudaSlots(careful, 2), CudaSlots(device, 2)
    parts = [Part(0, 0, TEXT[:9]), Part(1, 0, TEXT[:4])]
    logits = slow.step(parts, [BEST] * 2)
    assert isinstance(logits, np.ndarray)
    np.testing.assert_allclose(logits, np.asarray(quick.step(parts)), atol=5e-3)
    slow.step([Part(0, 9, [3])])
    assert [forward.call.graph for forward in slow.buffers.steps.values()] == [None]


def test_a_graph_that_fails_is_an_error_of_ours(device: Device) -> None:
    if PROVIDER == "cuda":
        pytest.skip("a device does not look whether a token is in the vocabulary")
    with pytest.raises(BadBundle, match="cannot run the graph"):
        CudaSlots(device, 1).step([Part(0, 0, [TINY.n_vocab + 1])])
