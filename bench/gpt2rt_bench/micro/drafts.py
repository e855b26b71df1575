"""Speculative decoding: `python -m gpt2rt_bench.micro.drafts 774M-int8 117M-int8`.

The draft really runs; what it proposes is replayed from a recorded run of the target, so that any
acceptance can be measured on any weights. Then look-up on a text that repeats itself and on one
that does not. Rounds interleaved, medians of tokens a second.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.engine.engine import Engine
from gpt2rt.generation.scheduler import Scheduler
from gpt2rt.generation.speculation import LOOKUP, Draft, Lookup
from gpt2rt.sampling.sampling import Sampler

LENGTH, ROUNDS = 96, 3
GREEDY = SamplingParams(temperature=0)
STOPPING = Stopping(LENGTH, end_of_text=False)


class Replayed:
    """A draft that does its work and then proposes the recorded text, right so often."""

    def __init__(self, draft: Draft, text: Sequence[int], right: float) -> None:
        self.cost = draft.cost
        self._draft, self._text, self._right = draft, list(text), right
        self._random = np.random.default_rng(0)

    def propose(self, tokens: Sequence[int], count: int, sampler: Sampler) -> list[int]:
        proposed = self._draft.propose(tokens, count, sampler)
        ahead = self._text[len(tokens) : len(tokens) + len(proposed)]
        return [t if self._random.random() < self._right else (t + 1) % 50_000 for t in ahead]


def main() -> None:
    names = sys.argv[1:] or ["774M-int8", "117M-int8"]
    model = GPT2.load(names[0], draft=names[1], prefix_bytes=0)
    drafted(model, names[1])
    looked_up(names[0])


def drafted(model: GPT2, draft: str) -> None:
    request = Request("The meaning of life is", GREEDY, STOPPING)
    text = recorded(model, request)
    rates: dict[float | None, list[float]] = {None: [], 1.0: [], 0.8: [], 0.5: [], 0.0: []}
    accepted: dict[float | None, float] = {}
    for _ in range(ROUNDS):
        for right, found in rates.items():
            assert model.make_draft is not None
            began = time.perf_counter()
            chosen = None if right is None else Replayed(model.make_draft(), text, right)
            done = finished(model, request, chosen)
            found.append(LENGTH / (time.perf_counter() - began))
            accepted[right] = done.accepted / max(1, done.drafted)
    report(f"{model.name}, draft {draft}", rates, accepted)


def recorded(model: GPT2, request: Request) -> list[int]:
    """The target's greedy text as steps over several tokens give it, whatever their number.

    Random weights are full of near ties, which the kernel for one token decides otherwise.
    """
    engine = Engine(model.new_slots(1))
    text = list(model.prompt_tokens(request.prompt))
    sequence, logits = engine.start(text)
    for _ in range(LENGTH):
        text.append(int(np.argmax(logits)))
        logits = engine.read(sequence, [text[-1], 0])[0]
        engine.rewind(sequence, len(text))
    return text


def looked_up(name: str) -> None:
    """A greedy text of random weights falls into a loop; a drawn one never repeats itself."""
    model = GPT2.load(name, draft=LOOKUP, prefix_bytes=0)
    words = " one two three four five six seven eight nine ten" * 6
    for what, params in (
        ("repeats itself", GREEDY),
        ("does not repeat itself", SamplingParams(seed=1)),
    ):
        request = Request(words if params is GREEDY else None, params, STOPPING)
        rates: dict[float | None, list[float]] = {None: [], 1.0: []}
        accepted: dict[float | None, float] = {}
        for _ in range(ROUNDS):
            for kind, found in rates.items():
                began = time.perf_counter()
                done = finished(model, request, None if kind is None else Lookup())
                found.append(LENGTH / (time.perf_counter() - began))
                accepted[kind] = done.accepted / max(1, done.drafted)
        report(f"{name}, look-up, a text that {what}", rates, accepted)


def finished(model: GPT2, request: Request, draft: Draft | None):  # type: ignore[no-untyped-def]
    engine = Engine(model.new_slots(1))
    make = None if draft is None else (lambda: draft)
    pieces = list(Scheduler(engine, model.hparams.n_ctx, model.tasks.begin, make).run([request]))
    return pieces[-1].completion


def report(
    what: str, rates: dict[float | None, list[float]], accepted: dict[float | None, float]
) -> None:
    plain = statistics.median(rates[None])
    print(f"{what}: plain {plain:.1f} tokens/s")
    for right, found in rates.items():
        if right is not None:
            rate = statistics.median(found)
            times = f"{rate:.1f} ({rate / plain:.2f} x)"
            print(f"  {right:.0%} right: {times}, {accepted[right]:.0%} accepted")


if __name__ == "__main__":
    main()
