"""A check that a device computes what it should, made once when a model is loaded.

Its kernels are ONNX Runtime's, chosen by the device, the shapes and the version. So texts that are
read together and step by step are compared with the same texts read alone, and the tokens that are
chosen with those of the sampler on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.passages import PassageReader
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.cuda.states import StateReader
from gpt2rt.engine.cuda.whole import WholeReader
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.errors import BadBundle, BadLogits, Gpt2rtError, OutOfMemory, ProviderMissing
from gpt2rt.sampling.filters import candidates
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.sampling.sampling import Sampler
from gpt2rt.sampling.selection import BEST, Draw, Selected

LENGTHS = (3, 19, 8)  # of the prompts
STEPS = 2  # the first is captured as a CUDA graph, the second replayed
AHEAD = 4  # steps that continue each other, which use two CUDA graphs in turn
APART = 0.05  # most of the logits' deviation by which two ways to compute them may differ
OFF = 1e-3  # of a share: how far beyond a token's interval its random number may lie
SETTINGS = (  # one for each tail
    SamplingParams(temperature=0),
    SamplingParams(),
    SamplingParams(top_k=40, top_p=0.8, temperature=0.8),
    SamplingParams(top_p=0.9, temperature=1e3),
    SamplingParams(temperature=0, repetition_penalty=0.01),  # which makes a token of the text best
)


def fault(device: Device) -> str | None:
    """What a device computes wrongly, or cannot compute; None: nothing was found.

    That is so, too, where there is no room for four texts.
    """
    h = device.hparams
    random = np.random.default_rng(0)
    lengths = [min(length, h.n_ctx - STEPS) for length in LENGTHS]
    texts = [random.integers(0, h.n_vocab, length + STEPS).tolist() for length in lengths]
    try:
        slots = CudaSlots(device, len(LENGTHS) + 1)
        together = list(_together(slots, texts, lengths))
        for slot, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            alone = np.asarray(slots.step([Part(len(texts), 0, text, STEPS + 1)]))
            for rows, wanted in zip(together, alone, strict=True):
                if not _near(rows[slot], wanted):
                    return f"the logits of a text of {length} tokens differ from those read alone"
        return _choices(slots, texts)
    except OutOfMemory:
        return None
    except (BadBundle, ProviderMissing) as error:
        return str(error)


def check_ahead(device: Device) -> None:
    """Find out whether steps may be started before the ones before are done.

    The tokens that a device feeds itself are compared with those that it chose, and the logits
    after them with those of the texts read alone.
    """
    texts, draws = _texts(device, more=-AHEAD), [BEST] * len(LENGTHS)
    lengths = [len(text) for text in texts]
    try:
        slots = CudaSlots(device, len(LENGTHS) + 1)
        rows = slots.step([Part(slot, 0, [*text]) for slot, text in enumerate(texts)], draws)
        for step in range(AHEAD):
            before = rows
            assert isinstance(before, Selected)
            places = [(slot, length + step) for slot, length in enumerate(lengths)]
            parts = [Part(slot, at, (0,), after=before[slot]) for slot, at in places]
            rows = slots.step(parts, draws)
            for text, row in zip(texts, before, strict=True):
                text.append(row.chosen)
        for text, row in zip(texts, np.asarray(rows), strict=True):
            if not _near(row, np.asarray(slots.step([Part(len(texts), 0, text)]))[0]):
                device.waits = f"after a text of {len(text)} tokens it goes on with others"
    except OutOfMemory:
        pass
    except Gpt2rtError as error:
        device.waits = str(error)


def check_reader(device: Device, kind: type[WholeReader]) -> None:
    """Find out, once, whether a device's readers of whole texts can be trusted."""
    if kind not in device.checked:
        device.checked.add(kind)
        try:
            why = READERS[kind](device)
        except OutOfMemory:
            why = None
        except (BadBundle, BadLogits, ProviderMissing) as error:
            why = str(error)
        if why is not None:
            device.faults[kind] = why


def _texts(device: Device, more: int) -> list[list[int]]:
    """Texts of random tokens, so many of them more than the context holds at most.

    A negative number leaves room.
    """
    h, random = device.hparams, np.random.default_rng(0)
    lengths = [min(n + max(0, more), h.n_ctx + more) for n in LENGTHS]
    return [random.integers(0, h.n_vocab, length).tolist() for length in lengths]


def _scores_fault(device: Device) -> str | None:
    """Whether scores of texts that are read side by side are those of their logits."""
    texts = _texts(device, more=1)
    with device.reader(PassageReader) as reader:
        if reader is None:
            return None
        found = reader.score([(text, 1) for text in texts], 0, None).logprobs
    slots, wanted = CudaSlots(device, 1), []
    for text in texts:
        rows = np.asarray(slots.step([Part(0, 0, text[:-1], len(text) - 1)]))
        totals = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
        wanted.append(rows[np.arange(len(rows)), text[1:]] - totals)
    if _near(found, np.concatenate(wanted)):
        return None
    return "the scores of texts that are read side by side are not those of their logits"


def _states_fault(device: Device) -> str | None:
    """Whether hidden states of texts that are read side by side, and sums, are those alone."""
    texts, layer = _texts(device, more=0), device.hparams.n_layer
    random = np.random.default_rng(1)
    weights = [random.random((2, len(text)), np.float32) for text in texts]
    with device.reader(StateReader) as reader:
        if reader is None:
            return None
        states = [reader.read([(text, None)], layer)[0] for text in texts]
        together = reader.read([(text, None) for text in texts], layer)
        sums = reader.read(list(zip(texts, weights, strict=True)), layer)
    for alone, beside, some, own in zip(states, together, sums, weights, strict=True):
        if not (_near(beside, alone) and _near(some, own @ alone)):
            return "the hidden states of texts that are read side by side are not those alone"
    return None


READERS: dict[type[WholeReader], Callable[[Device], str | None]] = {
    PassageReader: _scores_fault,
    StateReader: _states_fault,
}


def _together(
    slots: CudaSlots, texts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> Iterator[Logits]:
    """The logits [texts, n_vocab] after the prompts, and after each step."""
    pairs = list(enumerate(zip(texts, lengths, strict=True)))
    yield np.asarray(slots.step([Part(slot, 0, text[:length]) for slot, (text, length) in pairs]))
    for step in range(STEPS):
        parts = [Part(s, length + step, [text[length + step]]) for s, (text, length) in pairs]
        yield np.asarray(slots.step(parts))


def _near(found: Logits, wanted: Logits) -> bool:
    """Whether logits, or logarithms of probabilities, are no more apart than float16 explains, and
    not all the same."""
    deviation = float(np.std(wanted))
    return deviation > 0 and float(np.std(found - wanted)) <= APART * deviation  # False for NaN


def _choices(slots: CudaSlots, texts: Sequence[Sequence[int]]) -> str | None:
    """What is wrong with the tokens that the device chooses after the texts; None: nothing."""
    parts = [Part(slot, len(text) - 1, text[-1:]) for slot, text in enumerate(texts)]
    for params in SETTINGS:
        samplers = [Sampler(params, 0, slot, prompt=text) for slot, text in enumerate(texts)]
        draws = [sampler.next_draw() for sampler in samplers]
        found = slots.step(parts, draws)
        assert isinstance(found, Selected)
        for row, draw, sampler in zip(found, draws, samplers, strict=True):
            logits = sampler.edited(np.asarray(row), [])
            if row.chosen >= 0 and not _right(row.chosen, logits, params, draw):
                return f"token {row.chosen} is not the one to be drawn with {params}"
    return None


def _right(token: int, logits: Logits, params: SamplingParams, draw: Draw) -> bool:
    """Whether a token may be chosen from logits [n_vocab] by a draw."""
    if params.greedy:
        return bool(logits[token] == logits.max())
    ids, weights = candidates(logits, params)
    ids = np.arange(len(logits)) if ids is None else ids
    place = int(np.searchsorted(ids, token))
    if place == len(ids) or ids[place] != token or weights[place] == 0:
        return False
    if draw.tries:
        return True
    ends = np.cumsum(weights, dtype=np.float64) / weights.sum(dtype=np.float64)
    start = ends[place - 1] if place else 0.0
    return bool(start - OFF <= draw.uniform <= ends[place] + OFF)
