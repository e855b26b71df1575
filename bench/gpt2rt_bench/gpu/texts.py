"""Items of one process: is it right, and how fast are texts and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.engine.cuda.call import Call
from gpt2rt.engine.cuda.memory import Frame
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.providers import CPU
from gpt2rt.engine.slots import Part
from gpt2rt_bench.gpu.context import Context, prompts
from gpt2rt_bench.gpu.figures import GpuFigure
from gpt2rt_bench.worker import assigned

GREEDY = SamplingParams(temperature=0)
APART = 0.02  # of the logits' deviation: where the best two are further apart, tokens are equal
LARGEST = 0.1  # of their deviation, by which logits may differ: the gate of fp16
GENERATED = {  # name -> settings, tokens per second that must be reached
    "top-k 40": (SamplingParams(seed=1, top_k=40), 60_000),
    "top-p 0.9": (SamplingParams(seed=1, top_p=0.9), 50_000),
    "greedy": (GREEDY, None),
}
SCORED = 300_000  # tokens per second
WAITING = ", each step after the one before"
PATIENCE = 4.0  # seconds of a round after which there is no other


def check(c: Context) -> Iterator[GpuFigure]:
    """Whether the device computes what it should, and all of it."""
    model = c.load(c.small)
    yield GpuFigure("load", model.load_ms / 1e3, "s")
    yield reasons("self-check: reasons to work the slow way", model)
    yield GpuFigure("nodes not on the device", assigned(model.runtime.session)[CPU], "", 0, True)
    yield from parity(c, model)
    yield reasons("the same after some work", model)


def reasons(name: str, model: GPT2) -> GpuFigure:
    """The notes of a loaded model."""
    notes = model.runtime.notes
    return GpuFigure(name, len(notes), "", 0, True, "; ".join(notes))


def parity(c: Context, model: GPT2) -> Iterator[GpuFigure]:
    """Greedy texts, and the logits of their tokens, beside the CPU provider's."""
    count, length, new = c.sizes.compared
    texts = prompts(model, count, length)
    done = model.generate_batch(texts, GREEDY, Stopping(new, end_of_text=False), batch_size=count)
    host = c.load(c.small, CPU)
    different, compared, largest = 0, 0, 0.0
    for prompt, completion in zip(texts, done, strict=True):
        tokens = np.array(completion.tokens)
        part = Part(0, 0, [*prompt, *completion.tokens[:-1]], len(tokens))
        found, wanted = (np.array(m.new_slots(1).step([part])) for m in (model, host))
        deviation = wanted.std(axis=-1)
        second, best = np.sort(wanted, axis=-1)[:, -2:].T
        clear = best - second > APART * deviation
        different += int((clear & (wanted.argmax(-1) != tokens)).sum())
        compared += int(clear.sum())
        largest = max(largest, float(np.max(np.abs(found - wanted) / deviation[:, None])))
    name = f"greedy tokens unlike the CPU's, where the best two are {APART} deviations apart"
    yield GpuFigure(name, different, f"of {compared}", 0, True)
    yield GpuFigure("logits beside the CPU's", largest, "deviations", LARGEST, True)


def generate(c: Context) -> Iterator[GpuFigure]:
    """Texts of many prompts, side by side."""
    count, length, new, side = c.sizes.generated
    model = c.load(c.small)
    texts = prompts(model, count, length)
    stopping = Stopping(new, end_of_text=False)
    for title, (params, wanted) in GENERATED.items():

        def run(params: SamplingParams = params) -> int:
            done = model.generate_batch(texts, params, stopping, batch_size=side)
            return sum(len(completion.tokens) for completion in done)

        name = f"generate_batch, {count} prompts of {length}, {new} tokens each, {side} at a time"
        yield paced(c, f"{name}, {title}", run, wanted)
        with each_step_waits():
            yield paced(c, f"{name}, {title}{WAITING}", run, None)


def alone(c: Context) -> Iterator[GpuFigure]:
    """One text after the other, with and without steps ahead."""
    _, length, new, _ = c.sizes.generated
    model, stopping = c.load(c.small), Stopping(2 * new, end_of_text=False)
    (prompt,) = prompts(model, 1, length)

    def run() -> int:
        return len(model.generate(prompt, GREEDY, stopping).tokens)

    name = f"generate, a prompt of {length}, {2 * new} tokens, greedy"
    yield paced(c, name, run, None)
    with each_step_waits():
        yield paced(c, f"{name}{WAITING}", run, None)


@contextmanager
def each_step_waits() -> Iterator[None]:
    """A context in which no step is started before the one before is done."""
    before = CudaSlots.ahead
    CudaSlots.ahead = False  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        CudaSlots.ahead = before  # type: ignore[method-assign]


def score(c: Context) -> Iterator[GpuFigure]:
    """Scores of many passages."""
    count, characters = c.sizes.scored
    model = c.load(c.small)
    random = np.random.default_rng(0)
    letters = [*"etaoinshrdlu     ,."]
    texts = ["".join(random.choice(letters, characters)) for _ in range(count)]

    def run() -> int:
        return sum(len(found.tokens) for found in model.score_batch(texts))

    yield paced(c, f"score_batch, {count} passages of {characters} characters", run, SCORED)


def paced(c: Context, name: str, run: Callable[[], int], wanted: float | None) -> GpuFigure:
    """The tokens per second of what returns their number, and where the time of one goes."""
    rates, device, host = [], [], []
    for number in range(c.sizes.rounds + 1):
        with waiting() as spent:
            began = perf_counter()
            tokens = run()
            took = perf_counter() - began
        if number or took > PATIENCE:  # shapes are captured in the first round
            rates.append(tokens / took)
            device.append(1e6 * spent[0] / tokens)
            host.append(1e6 * (took - spent[0]) / tokens)
        if took > PATIENCE:
            break
    parts = {"host_us_a_token": median(host), "device_us_a_token": median(device)}
    return GpuFigure(
        name,
        median(rates),
        "tokens/s",
        wanted,
        note=f"{median(host):.1f} µs of the host a token",
        beside={**parts, "tokens": tokens, "rounds": rates},
    )


@contextmanager
def waiting() -> Iterator[list[float]]:
    """Counts the seconds in which the host starts calls and copies, and waits for them; all else is
    its own work."""
    spent = [0.0]
    places = [(Call, "run"), (Frame, "send"), (Frame, "fetch"), (Frame, "wait")]
    before = [getattr(kind, name) for kind, name in places]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: object) -> Any:
            began = perf_counter()
            try:
                return method(*arguments)
            finally:
                spent[0] += perf_counter() - began

        return call

    try:
        for (kind, name), method in zip(places, before, strict=True):
            setattr(kind, name, timed(method))
        yield spent
    finally:
        for (kind, name), method in zip(places, before, strict=True):
            setattr(kind, name, method)
