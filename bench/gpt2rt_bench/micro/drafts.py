"""Measures speculative decoding: `python -m gpt2rt_bench.micro.drafts 774M-int8 117M-int8`.

The draft model runs, but its proposals are replaced by tokens of a recorded run of the target, so
that any share of accepted tokens can be measured on any weights. Then look-up is measured on a text
that repeats itself and on one that does not. Rounds are interleaved; figures are medians of tokens
per second.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.generation.completion import Completion
from gpt2rt.generation.speculation import Draft, SmallerModel
from gpt2rt.sampling.sampling import Sampler

LENGTH, ROUNDS = 96, 3
GREEDY = SamplingParams(temperature=0)
STOPPING = Stopping(LENGTH, end_of_text=False)


class Replayed:
    """A draft that runs another but proposes recorded tokens, each right with chance `right`."""

    def __init__(self, draft: Draft, text: Sequence[int], right: float) -> None:
        self.cost = draft.cost
        self._draft, self._text, self._right = draft, list(text), right
        self._random = np.random.default_rng(0)

    def propose(self, tokens: Sequence[int], count: int, sampler: Sampler) -> list[int]:
        proposed = self._draft.propose(tokens, count, sampler)
        recorded = self._text[len(tokens) : len(tokens) + len(proposed)]
        return [t if self._random.random() < self._right else (t + 1) % 50_000 for t in recorded]


def main() -> None:
    names = sys.argv[1:] or ["774M-int8", "117M-int8"]
    drafted(GPT2.load(names[0], prefix_bytes=0), GPT2.load(names[1], prefix_bytes=0))
    looked_up(names[0])


def drafted(model: GPT2, smaller: GPT2) -> None:
    """Print the rates of `model` alone and with `smaller` as its draft, by shares accepted."""
    request = Request("The meaning of life is", GREEDY, STOPPING)
    text = recorded(model, request)
    rates: dict[float | None, list[float]] = {None: [], 1.0: [], 0.8: [], 0.5: [], 0.0: []}
    accepted: dict[float | None, float] = {}
    for _ in range(ROUNDS):
        for right, found in rates.items():
            began = time.perf_counter()
            draft = None if right is None else Replayed(draft_of(model, smaller), text, right)
            done = completed(model, request, draft)
            found.append(LENGTH / (time.perf_counter() - began))
            accepted[right] = done.accepted / max(1, done.drafted)
    report(f"{model.name}, draft {smaller.name}", rates, accepted)


def recorded(model: GPT2, request: Request) -> list[int]:
    """The prompt and the target's greedy tokens."""
    done = completed(model, request, None)
    return [*done.prompt_tokens, *done.tokens]


def looked_up(name: str) -> None:
    """Print the rates with and without look-up, by `GPT2.run`.

    A greedy text of random weights falls into a loop; a sampled one does not repeat itself.
    """
    plain = GPT2.load(name, prefix_bytes=0)
    models = {None: plain, 1.0: GPT2(plain.bundle, draft="lookup", prefix_bytes=0)}
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
                (*_, last) = models[kind].run([request])
                assert last.completion is not None
                done = last.completion
                found.append(LENGTH / (time.perf_counter() - began))
                accepted[kind] = done.accepted / max(1, done.drafted)
        report(f"{name}, look-up, a text that {what}", rates, accepted)


def draft_of(model: GPT2, smaller: GPT2) -> SmallerModel:
    """`smaller` as a draft of `model`; a proposal costs as its weights do beside the model's."""
    theirs, own = (m.bundle.manifest.files[WEIGHTS].bytes for m in (smaller, model))
    return SmallerModel(smaller.new_slots(1), smaller.hparams.n_ctx, 1.25 * theirs / own)


def completed(model: GPT2, request: Request, draft: Draft | None) -> Completion:
    """The completion of a request with a draft of the benchmark's own, which `GPT2` cannot take."""
    model.make_draft = None if draft is None else (lambda: draft)
    (*_, last) = model.run([request])
    assert last.completion is not None
    return last.completion


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
