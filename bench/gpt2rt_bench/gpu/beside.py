"""Items of several processes that are asked in turn: decode steps and prompts, beside PyTorch's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from gpt2rt import Bundle
from gpt2rt.bundles.manifest import CUDA_GRAPH
from gpt2rt.engine.providers import CPU, CUDA, XQA
from gpt2rt_bench.gpu.context import Context
from gpt2rt_bench.gpu.figures import GpuFigure
from gpt2rt_bench.latency import PAUSE
from gpt2rt_bench.machine.bandwidth import Meter
from gpt2rt_bench.protocol import Answer
from gpt2rt_bench.subject import Subject
from gpt2rt_bench.traffic import traffic

OURS, THEIRS = "gpt2rt", "PyTorch"
STEP = {1: 1.0}  # batch -> the least ratio of tokens per second; else `STEPS`
STEPS = 0.9
PREFILL = 1.3  # the largest ratio of times
SHARE = 0.5  # of the memory's speed, of the large model at batch 1
BEFORE = "2.5 times of before, which was not measured at 32; 8 took 3.29 ms a step on an H100"

Times = dict[str, list[float]]  # of each subject, milliseconds of the rounds


def step_ms(answer: Answer) -> float:
    return median(answer.step_ms)


def prefill_ms(answer: Answer) -> float:
    return answer.prefill_ms


def rounds(
    c: Context,
    subjects: Mapping[str, Subject],
    shape: tuple[int, int],
    steps: int,
    of: Callable[[Answer], float],
) -> Times:
    """The times of a batch of prompts [count, length] in each round, after one that warms up."""
    n_vocab = Bundle.open(Path(c.small)).manifest.hparams.n_vocab
    texts = np.random.default_rng(0).integers(0, n_vocab, shape).tolist()
    found: Times = {name: [] for name in subjects}
    for number in range(c.sizes.rounds + 1):
        for name, subject in subjects.items():
            time.sleep(PAUSE)  # threads of the subject before stop spinning
            answer = subject.ask(texts, steps)
            if number:
                found[name].append(of(answer))
    return found


def alone(c: Context) -> Iterator[GpuFigure]:
    """The times of gpt2rt by itself, which are known even where PyTorch is not."""
    with c.worker(c.small) as ours:
        for prompt in c.sizes.prompts:
            for batch in c.sizes.batches:
                (times,) = rounds(c, {OURS: ours}, (batch, prompt), c.sizes.steps, step_ms).values()
                name, rate = f"a step, batch {batch} after {prompt}", 1e3 * batch / median(times)
                yield GpuFigure(name, median(times), "ms", note=f"{rate:,.0f} tokens/s")
        for batch, prompt in c.sizes.prefills:
            (times,) = rounds(c, {OURS: ours}, (batch, prompt), 2, prefill_ms).values()
            yield GpuFigure(f"prefill, {batch} x {prompt}", median(times), "ms")


def beside(c: Context) -> Iterator[GpuFigure]:
    """The same, in the same rounds as PyTorch: tokens per second to its, and times to its."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        theirs = c.peer(work)
        if theirs is None:
            yield GpuFigure("steps and prefill beside PyTorch", None, "", STEPS, note="no PyTorch")
            return
        stack.enter_context(theirs)
        subjects = {OURS: stack.enter_context(c.worker(c.small)), THEIRS: theirs}
        first, *more = c.sizes.prompts
        yield from steps_beside(c, subjects, first)
        for batch, prompt in c.sizes.prefills:
            times = rounds(c, subjects, (batch, prompt), 2, prefill_ms)
            name = f"prefill, {batch} x {prompt}, time to PyTorch's"
            yield ratio(name, times[OURS], times[THEIRS], times, PREFILL, at_most=True)
        for prompt in more:
            yield from steps_beside(c, subjects, prompt)


def steps_beside(c: Context, subjects: Mapping[str, Subject], prompt: int) -> Iterator[GpuFigure]:
    for batch in c.sizes.batches:
        times = rounds(c, subjects, (batch, prompt), c.sizes.steps, step_ms)
        name = f"a step, batch {batch} after {prompt}, tokens/s to PyTorch's"
        yield ratio(name, times[THEIRS], times[OURS], times, STEP.get(batch, STEPS))


def ratio(
    name: str,
    over: list[float],
    under: list[float],
    times: Times,
    wanted: float | None = None,
    *,
    at_most: bool = False,
) -> GpuFigure:
    """The median of the rounds' ratios, with the medians of their times."""
    found = median(a / b for a, b in zip(over, under, strict=True))
    middle = {f"{who} ms": median(values) for who, values in times.items()}
    note = ", ".join(f"{who} {value:.3f}" for who, value in middle.items())
    return GpuFigure(name, found, "x", wanted, at_most, note, {"ms": times})


def kernels(c: Context) -> Iterator[GpuFigure]:
    """Decode steps with the XQA kernels for attention, beside those that are used."""
    with c.worker(c.small) as ours, c.worker(c.small, {XQA: "1"}) as other:
        for batch in c.sizes.batches:
            shape = batch, c.sizes.prompts[0]
            times = rounds(c, {OURS: ours, "XQA": other}, shape, c.sizes.steps, step_ms)
            name = f"a step, batch {batch}, tokens/s with XQA to without"
            yield ratio(name, times[OURS], times["XQA"], times)


def large(c: Context) -> Iterator[GpuFigure]:
    """Steps of the large model, beside the speed of the memory."""
    speed = (Meter(CPU, 1, size=1 << 20) if c.dry else Meter(CUDA, 1)).read()
    yield GpuFigure("the memory's speed", speed / 1e9, "GB/s")
    prompt = c.sizes.prompts[0]
    reads = traffic(Bundle.open(Path(c.large)), CUDA_GRAPH)
    with c.worker(c.large) as ours:
        for batch in (1, c.sizes.many):
            (times,) = rounds(c, {OURS: ours}, (batch, prompt), c.sizes.steps, step_ms).values()
            seconds = median(times) / 1e3
            share = reads.step(batch, prompt + c.sizes.steps / 2) / seconds / speed
            told = {"ms": times, "share_of_bandwidth": share}
            note = f"{batch / seconds:,.0f} tokens/s, {share:.0%} of the memory's speed"
            if batch == 1:
                name = "1558M, a step at batch 1, of the memory's speed"
                yield GpuFigure(name, share, f"{seconds * 1e3:.2f} ms", SHARE, beside=told)
            else:
                name = f"1558M, a step at batch {batch}"
                yield GpuFigure(name, seconds * 1e3, "ms", note=f"{note}; {BEFORE}", beside=told)
