"""Measures steps ahead without a device: `python -m gpt2rt_bench.micro.ahead demo-int8`.

A stand-in for a device takes a set time for a step, works in the order of what it is given, and
draws random tokens. The host's time is that of its processor, and waiting is added to it, not
slept: so what is measured is how much of the host's own work hides behind a device of that speed,
also on a busy machine. Figures are the least of some rounds.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from gpt2rt import GPT2, Bundle, SamplingParams, Stopping
from gpt2rt.bundles import library
from gpt2rt.engine.slots import KeysValues, Part
from gpt2rt.sampling.selection import Draw, Selected

SIDES, DEVICE_US = (1, 32, 128), (0, 300, 450, 1000, 1500)
PROMPT, LENGTH, ROUNDS = 16, 64, 5
SAMPLED = SamplingParams(seed=1, top_k=40)


@dataclass
class Clock:
    """Seconds of this thread's work, and those in which it waited."""

    waited: float = 0.0

    def now(self) -> float:
        return thread_time() + self.waited

    def wait(self, until: float) -> None:
        self.waited += max(0.0, until - self.now())


class StandIn:
    """Slots on a device that takes `seconds` for a step."""

    budget, prefixes = 2048, False

    def __init__(self, count: int, n_vocab: int, seconds: float, ahead: bool, clock: Clock) -> None:
        self.count, self.ahead = count, ahead
        self._seconds, self._clock, self._done = seconds, clock, 0.0
        tokens = np.random.default_rng(0).integers(0, n_vocab, 1 << 16).tolist()
        self._tokens = itertools.cycle(tokens)

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Selected:
        done = self._done = max(self._done, self._clock.now()) + self._seconds

        def choose() -> list[int]:
            self._clock.wait(done)
            return list(itertools.islice(self._tokens, len(draws)))

        return Selected(choose, draws, _no_logits)

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing is kept."""

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        raise NotImplementedError("a stand-in has no keys and values")

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        raise NotImplementedError("a stand-in has no keys and values")


def _no_logits(number: int) -> NDArray[np.float32]:
    raise NotImplementedError("a stand-in has no logits")


def step_us(model: GPT2, side: int, device_us: float, ahead: bool, rounds: int = ROUNDS) -> float:
    """The microseconds of a step of `side` texts."""
    n_vocab, stopping = model.hparams.n_vocab, Stopping(LENGTH, end_of_text=False)
    prompts = np.random.default_rng(1).integers(0, n_vocab, (2 * side, PROMPT)).tolist()
    clock, slots = Clock(), model.runtime.slots
    model.runtime.slots = (  # type: ignore[method-assign]
        lambda count: StandIn(count, n_vocab, device_us / 1e6, ahead, clock)
    )
    times = []
    try:
        for _ in range(rounds):
            began = clock.now()
            done = model.generate_batch(prompts, SAMPLED, stopping, batch_size=side)
            steps = sum(len(text.tokens) for text in done) / side
            times.append(1e6 * (clock.now() - began) / steps)
    finally:
        model.runtime.slots = slots  # type: ignore[method-assign]
    return min(times)


def main(bundle: Bundle) -> None:
    """Print a line for each number of texts and speed of the device."""
    model = GPT2(bundle, provider="cpu")
    print("texts  device  one by one  ahead, us a step  tokens/s")
    for side, device_us in itertools.product(SIDES, DEVICE_US):
        waits, goes = (step_us(model, side, device_us, ahead) for ahead in (False, True))
        print(f"{side:5} {device_us:7} {waits:11.0f} {goes:6.0f} {1e6 * side / goes:19,.0f}")


if __name__ == "__main__":
    main(library.find(sys.argv[1] if len(sys.argv) > 1 else "demo-int8"))
