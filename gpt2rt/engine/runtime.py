"""A bundle's graphs, opened in ONNX Runtime: slots for sequences, and hidden states."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import hidden
from gpt2rt.bundles.manifest import EMBED
from gpt2rt.engine import memory
from gpt2rt.engine.execution import Opened, open_on, resolve
from gpt2rt.engine.fused import FusedSlots
from gpt2rt.engine.hidden import whole_texts
from gpt2rt.engine.portable import PortableSlots
from gpt2rt.engine.providers import (
    AUTO,
    CPU,
    CUDA,
    Threads,
    graph_of,
    open_session,
    passed_over,
)
from gpt2rt.engine.session import hidden_interface_mismatch, interface_mismatch
from gpt2rt.engine.slots import Part, Slots
from gpt2rt.engine.standard import StandardSlots
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing

if TYPE_CHECKING:
    import onnxruntime as ort

    from gpt2rt.engine.cuda.device import AnyReader, Device
    from gpt2rt.engine.cuda.memory import Memory
    from gpt2rt.engine.cuda.passages import PassageReader
    from gpt2rt.engine.cuda.states import StateReader
    from gpt2rt.engine.forks import ForkAwareSession

SlotsOf = Callable[["ForkAwareSession", HParams, int], Slots]
HiddenStep = Callable[[Sequence[Part]], NDArray[np.float32]]
SLOTS: dict[str, SlotsOf] = {"fused": FusedSlots, "standard": StandardSlots}


def slots_of(bundle: Bundle) -> SlotsOf:
    """The kind of slots of a bundle's own graph. Raises `BadBundle` for an unknown graph."""
    manifest = bundle.manifest
    if manifest.graph not in SLOTS:
        raise BadBundle(f"{bundle.directory}: unknown graph {manifest.graph!r}")
    return SLOTS[manifest.graph]


class Runtime:
    """A bundle's graphs on an execution provider. All sequences share the weights.

    `provider` is `cpu`, `cuda`, or another with its device, such as `openvino:gpu`; `threads` the
    number of threads that compute, `kernels` the instruction set of the kernels that compute the
    graph (empty if ONNX Runtime's own do), `placed` says what does not run on the provider.

    Any thread may take slots; each `Slots` is for one thread at a time.
    """

    def __init__(self, bundle: Bundle, threads: Threads, provider: str = AUTO) -> None:
        """Open the graph. Raises `BadBundle`, `InvalidSetting`, `ProviderMissing`."""
        self._bundle = bundle
        self._hparams = bundle.manifest.hparams
        slots_of(bundle)
        self._wanted = provider
        opened = _opened(bundle, threads, provider)
        self.provider = opened.provider
        self._kv = opened.kv
        self._slots_of = slots_for(opened)
        self.placed = opened.notes
        self._session: ort.InferenceSession | None = opened.session
        self._hidden: ForkAwareSession | None = None
        self.threads: int = opened.session.get_session_options().intra_op_num_threads
        self.kernels: str = opened.session.kernels
        if odd := interface_mismatch(opened.session, self._hparams, opened.kind, opened.kv):
            raise self._not_of_this_shape(opened.graph, odd)
        self._device: Device | None = None
        if self.provider == CUDA:
            self._device = _device(opened, bundle, threads)
            self._session = self._device.session

    @property
    def notes(self) -> list[str]:
        """Why the model is slower on this machine than it could be, and what runs elsewhere."""
        if self._device is not None:
            return self._device.notes
        passed = passed_over(self._bundle) if self._wanted == AUTO and not self.placed else None
        return [*self.placed] if passed is None else [passed]

    def close(self) -> None:
        """Release the weights and threads; after that there are no more slots."""
        self._session = self._hidden = self._device = None

    @property
    def session(self) -> ort.InferenceSession:
        """ONNX Runtime's session of the graph. Raises `InvalidSetting` after `close`."""
        if self._session is None:
            raise self.closed()
        return self._session

    def closed(self) -> InvalidSetting:
        """The error that says that the model is closed."""
        return InvalidSetting(f"{self._bundle.name} is closed; load it again")

    def check(self, count: int) -> None:
        """Raises `InvalidSetting` if the memory is too small for `count` sequences."""
        if self._device is None:
            memory.check(self._hparams, self._kv, count)

    def slots(self, count: int) -> Slots:
        """Slots for `count` sequences, with keys and values of their own.

        Raises `InvalidSetting` if the memory is too small, `OutOfMemory` on CUDA.
        """
        session = self.session
        if self._device is not None:
            from gpt2rt.engine.cuda.slots import CudaSlots

            return CudaSlots(self._device, count)
        self.check(count)
        return self._slots_of(session, self._hparams, count)

    def passage_reader(self) -> AbstractContextManager[PassageReader | None]:
        """A context with a reader of passages on the device; None: they are read by slots."""
        if self._device is None:
            return nullcontext()
        from gpt2rt.engine.cuda.passages import PassageReader

        return self._reader(self._device, PassageReader)

    def state_reader(self) -> AbstractContextManager[StateReader | None]:
        """A context with a reader of hidden states on the device; None: see `hidden_step`."""
        if self._device is None:
            return nullcontext()
        from gpt2rt.engine.cuda.states import StateReader

        return self._reader(self._device, StateReader)

    @staticmethod
    def _reader(device: Device, kind: type[AnyReader]) -> AbstractContextManager[AnyReader | None]:
        from gpt2rt.engine.cuda.check import check_reader

        check_reader(device, kind)
        return device.reader(kind)

    @property
    def embeds_in_slices(self) -> bool:
        """Whether a text may be cut for `hidden_step`."""
        return self._bundle.manifest.graph == "fused"

    def hidden_step(self, count: int, layer: int) -> HiddenStep:
        """A step for `count` sequences of its own, as that of `Slots`, of hidden states.

        It returns float32 [R, n_embd], those after block `layer` of every token: 0 is the
        embeddings, n_layer the output of ln_f. All tokens of a part are wanted. Raises `BadBundle`
        if the bundle has no embedding graph, `InvalidSetting` if the memory is too small.
        """
        if self._hidden is None:
            self._hidden = self._open_hidden()
        if not self.embeds_in_slices:
            return partial(whole_texts, self._hidden, self._hparams, layer)
        self.check(count)
        port = hidden(self._hparams, "fused")[layer]
        return FusedSlots(self._hidden, self._hparams, count, port).step

    def _open_hidden(self) -> ForkAwareSession:
        bundle = self._bundle
        place = bundle.directory / EMBED
        if EMBED not in bundle.manifest.files:
            raise BadBundle(f"{bundle.directory}: made before bundles could embed; {bundle.remedy}")
        threads = Threads(self.session.get_session_options().intra_op_num_threads)
        session = open_session(place, threads, prepack=False)
        if odd := hidden_interface_mismatch(
            session, self._hparams, bundle.manifest.graph, bundle.manifest.kv
        ):
            raise self._not_of_this_shape(place, odd)
        return session

    def _not_of_this_shape(self, place: object, odd: str) -> BadBundle:
        return BadBundle(
            f"{place}: not the graph of the manifest's hparams (look for {odd}); "
            f"{self._bundle.remedy}"
        )


def _opened(bundle: Bundle, threads: Threads, wanted: str) -> Opened:
    """Open the graph; for `auto` on the CPU if another provider fails."""
    provider = resolve(bundle, wanted)
    try:
        own = provider in (CPU, CUDA)
        return (_own if own else open_on)(bundle, provider, threads)
    except ProviderMissing as error:
        if provider == CPU or wanted != AUTO:
            raise
        return replace(_own(bundle, CPU, threads), notes=(str(error),))


def _own(bundle: Bundle, provider: str, threads: Threads) -> Opened:
    """Open the bundle's graph for `cpu` or `cuda`."""
    graph, manifest = graph_of(bundle, provider), bundle.manifest
    kind = CUDA if provider == CUDA else manifest.graph
    memory = _cuda_memory() if provider == CUDA else None
    stream = None if memory is None else memory.stream
    session = open_session(graph, threads, provider, stream=stream)
    return Opened(session, provider, graph, kind, manifest.kv, memory=memory)


def _cuda_memory() -> Memory:
    from gpt2rt.engine.cuda.memory import CudaMemory

    return CudaMemory()


def slots_for(opened: Opened) -> SlotsOf:
    """The kind of slots of an opened graph; for CUDA there are others."""
    if opened.kind == "portable":
        return partial(PortableSlots, few_shapes=opened.few_shapes)
    return SLOTS.get(opened.kind, FusedSlots)


def _device(opened: Opened, bundle: Bundle, threads: Threads) -> Device:
    """The device of a session; one that works the slow way if it computes what it should not."""
    from gpt2rt.engine.cuda.check import check_ahead, fault
    from gpt2rt.engine.cuda.device import Device

    hparams, memory = bundle.manifest.hparams, opened.memory
    assert memory is not None, "CUDA has memory of its own"
    device = Device(opened.session, bundle.directory, hparams, memory)
    if why := fault(device):
        graph = graph_of(bundle, CUDA)
        session = open_session(graph, threads, CUDA, xqa=True, stream=memory.stream)
        device = Device(session, bundle.directory, hparams, memory)
        device.distrust(why)
        warnings.warn(f"{bundle.name}: {device.notes[0]}", RuntimeWarning, stacklevel=3)
    else:
        check_ahead(device)
    return device
