"""Measures the time of sampling a token beside that of a decode step.

Run as `python -m gpt2rt_bench.micro.sampler 117M-int8`.

Each mix of settings is measured on two kinds of logits: flat, as of random weights, where nearly
every token is a candidate, and peaked, as of a trained model. Steps and draws alternate; medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpt2rt import GPT2, SamplingParams
from gpt2rt.engine.slots import Part
from gpt2rt.sampling.history import Edits
from gpt2rt.sampling.sampling import Sampler
from gpt2rt.sampling.selection import Draw

PENALISED = SamplingParams(repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.2)
MIXES = {
    "plain": SamplingParams(),
    "temperature": SamplingParams(temperature=0.8),
    "top-k 40": SamplingParams(top_k=40),
    "top-p 0.9": SamplingParams(top_p=0.9),
    "top-p 0.5": SamplingParams(top_p=0.5),
    "top-p 0.1": SamplingParams(top_p=0.1),
    "min-p 0.05": SamplingParams(min_p=0.05),
    "min-p 0.4": SamplingParams(min_p=0.4),
    "top-p, min-p": SamplingParams(temperature=0.8, top_p=0.95, min_p=0.02),
    "penalties": PENALISED,
    "top-p, penalties": replace(PENALISED, temperature=0.9, top_p=0.95),
    "all": replace(PENALISED, temperature=0.9, top_k=200, top_p=0.95, min_p=0.02),
}
DEVIATIONS = {"flat": 0.56, "peaked": 3.0}
PROMPT, STEPS = 200, 15


def main() -> None:
    model = GPT2.load(sys.argv[1] if len(sys.argv) > 1 else "117M-int8")
    rng = np.random.default_rng(0)
    print(f"{model.name}: milliseconds of the draws of one step (share of the step)")
    for batch in (1, 32):
        step = decode_step(model, batch)
        print(f"batch {batch}")
        for kind, deviation in DEVIATIONS.items():
            rows = rng.standard_normal((batch, model.hparams.n_vocab)).astype(np.float32)
            rows *= np.float32(deviation)
            for name, params in MIXES.items():
                samplers = [
                    Sampler(params, 1, n, Edits(), rng.integers(0, len(rows[0]), PROMPT).tolist())
                    for n in range(batch)
                ]
                drawing, stepping = interleaved(samplers, rows, step)
                share = drawing / stepping
                print(f"  {kind:7} {name:17} {drawing:6.2f} of {stepping:6.1f} ({share:5.1%})")


def decode_step(model: GPT2, batch: int) -> Callable[[], object]:
    slots = model.new_slots(batch)
    tokens = np.random.default_rng(1).integers(0, model.hparams.n_vocab, 64).tolist()
    slots.step([Part(slot, 0, tokens) for slot in range(batch)])
    parts = [Part(slot, len(tokens), [5]) for slot in range(batch)]
    return lambda: slots.step(parts, [Draw()] * batch)


def interleaved(
    samplers: list[Sampler], rows: NDArray[np.float32], step: Callable[[], object]
) -> tuple[float, float]:
    """Medians of drawing a token for every row, and of a step, in milliseconds."""
    drawing, stepping = [], []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        middle = time.perf_counter()
        for sampler, row in zip(samplers, rows, strict=True):
            sampler.draw(row)
        drawing.append(time.perf_counter() - middle)
        stepping.append(middle - began)
    return statistics.median(drawing) * 1e3, statistics.median(stepping) * 1e3


if __name__ == "__main__":
    main()
