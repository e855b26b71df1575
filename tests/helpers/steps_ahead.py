"""Texts on devices that go ahead, which are the CPU provider: what they are, and their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from batches import Engines
from cuda_device import open_device
from gpt2rt import GPT2, Completion, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.generation.completion import raise_failures
from gpt2rt.sampling.selection import Draw, Selected
from late_device import late_device

GREEDY = SamplingParams(temperature=0)
# One does all at once, one as late as it may.
OPENERS: dict[str, Callable[[Bundle], Device]] = {"at once": open_device, "late": late_device}


def model_on(device: Device, bundle: Bundle, patch: pytest.MonkeyPatch) -> GPT2:
    """A bundle's model, whose slots are on a device until `patch` ends."""
    model = GPT2.load(bundle.directory, threads=1)
    patch.setattr(model.runtime, "slots", partial(CudaSlots, device))
    return model


class Watched:
    """Slots that write down how many parts of each step come after rows of the one before."""

    def __init__(self, slots: CudaSlots) -> None:
        self._slots, self.count, self.budget = slots, slots.count, slots.budget
        self.prefixes, self.ahead = slots.prefixes, slots.ahead
        self.copy, self.read, self.write = slots.copy, slots.read, slots.write
        self.after: list[int] = []

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits | Selected:
        self.after.append(sum(part.after is not None for part in parts))
        return self._slots.step(parts, draws)


def run(
    model: GPT2, device: Device, requests: Iterable[Request], count: int, *, ahead: bool = True
) -> tuple[list[Completion], list[int]]:
    """The completions, and how many texts each step continued before their tokens were known."""
    watched: list[Watched] = []

    def slots(count: int) -> Watched:
        device.waits = None if ahead else "it is to be compared"
        watched.append(Watched(CudaSlots(device, count)))
        return watched[-1]

    pieces = raise_failures(Engines(slots).run(requests, model.tasks, count))
    done = sorted((p.completion for p in pieces if p.completion), key=lambda text: text.sample)
    return done, [after for slots in watched for after in slots.after]


def told(done: Iterable[Completion]) -> list[object]:
    """All of the completions but their times."""
    return [(c.sample, c.text, c.tokens, c.logprobs, c.finish_reason, c.stopped_by) for c in done]


def of(params: SamplingParams, length: int = 8, prompt: str = "a") -> Request:
    return Request(prompt, replace(params, seed=1), Stopping(length, end_of_text=False))
