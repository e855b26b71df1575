"""Items that do no harm: many calls, threads, an interrupted stream."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.engine.providers import cuda_runtime
from gpt2rt_bench.gpu.context import Context, prompts
from gpt2rt_bench.gpu.figures import GpuFigure
from gpt2rt_bench.gpu.texts import GREEDY

ENOUGH = 20.0  # seconds of calls
LEAK = 16e6  # bytes by which memory may grow: what allocators keep
KINDS = (  # one for each tail
    GREEDY,
    SamplingParams(seed=1),
    SamplingParams(seed=1, top_k=40),
    SamplingParams(seed=1, top_p=0.9),
    SamplingParams(seed=1, top_k=40, repetition_penalty=1.2),
)


def robust(c: Context) -> Iterator[GpuFigure]:
    model = c.load(c.small)
    yield from calls(c, model)
    yield from threads(model)
    yield from stream(model)


def calls(c: Context, model: GPT2) -> Iterator[GpuFigure]:
    """The memory of device and process that calls of all kinds leave behind."""
    texts = prompts(model, 9, 5)
    before, began, done = (0, 0), perf_counter(), 0
    while done < c.sizes.calls and perf_counter() - began < ENOUGH:
        if done == c.sizes.settled:
            before = device_bytes(c), process_bytes()
        params, count = KINDS[done % len(KINDS)], 1 + done % len(texts)
        model.generate_batch(texts[:count], params, Stopping(3 + done % 3))
        if done % 50 == 0:
            model.score("a few words to be scored")
        done += 1
    whole = done == c.sizes.calls
    note = "" if whole else f"no time for {c.sizes.calls}"
    after = device_bytes(c), process_bytes()
    for what, old, new in zip(("the device", "the process"), before, after, strict=True):
        name = f"memory of {what} after {c.sizes.calls} calls, since the {c.sizes.settled}th"
        grown = new - old if whole else None
        yield GpuFigure(name, grown, "bytes", LEAK, True, note, {"calls": done})


def threads(model: GPT2) -> Iterator[GpuFigure]:
    """Texts that two threads cut short, beside those that were asked for."""
    texts, stopping = prompts(model, 8, 5), Stopping(8, end_of_text=False)
    alone = model.generate(texts[0], GREEDY, stopping).tokens

    def run(params: SamplingParams) -> int:
        done = [model.generate_batch(texts, params, stopping) for _ in range(4)]
        return sum(len(completion.tokens) != 8 for batch in done for completion in batch)

    with ThreadPoolExecutor(2) as pool:
        short = sum(pool.map(run, KINDS))
    yield GpuFigure("two threads: texts that ended early", short, "", 0, True)
    again = model.generate(texts[0], GREEDY, stopping).tokens
    yield GpuFigure("two threads: a text changed afterwards", int(again != alone), "", 0, True)


def stream(model: GPT2) -> Iterator[GpuFigure]:
    """Whether texts are the same after others were given up."""
    texts, stopping = prompts(model, 4, 5), Stopping(8, end_of_text=False)
    alone = model.generate(texts[0], GREEDY, stopping).tokens
    for _ in range(5):
        pieces = model.stream_batch(texts, GREEDY, Stopping(16, end_of_text=False))
        for _, _ in zip(range(6), pieces, strict=False):
            pass
        del pieces
    again = model.generate(texts[0], GREEDY, stopping).tokens
    left = model.batch.statistics.running
    yield GpuFigure("interrupted streams: a text changed", int(again != alone), "", 0, True)
    yield GpuFigure("interrupted streams: texts still running", left, "", 0, True)


def device_bytes(c: Context) -> int:
    """Bytes of the device that are taken; of the process for the stand-in."""
    if c.dry:
        return process_bytes()
    free, whole = ctypes.c_size_t(), ctypes.c_size_t()
    code = cuda_runtime().cudaMemGetInfo(ctypes.byref(free), ctypes.byref(whole))
    if code:
        raise RuntimeError(f"cudaMemGetInfo: error {code}")
    return whole.value - free.value


def process_bytes() -> int:
    """Resident bytes of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
