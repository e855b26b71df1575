"""The rows of a step on CUDA: their logits, and the tokens chosen of them, lie on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2rt.engine.cuda.forward import Forward, TokenChoice
from gpt2rt.engine.slots import Logits
from gpt2rt.sampling.selection import Draw, Scored, Selected

Place = tuple[Forward, int]  # a call, and the number of a row of its logits
Chosen = tuple[TokenChoice, list[int]]  # with the numbers of its rows in the step


class DeviceRows(Selected):
    """The rows of a step at their places, of which tokens are chosen.

    As long as there are any, nobody else gets the buffers of their `slots`. `sources` are the
    addresses of the tokens, by rows; empty if other tries may be needed.
    """

    def __init__(
        self,
        slots: object,
        places: Sequence[Place],
        choices: Sequence[Chosen],
        draws: Sequence[Draw],
    ) -> None:
        self.slots = slots
        self.sources: dict[int, int] = {}
        if all(choice.final for choice, _ in choices):
            for choice, numbers in choices:
                self.sources |= zip(numbers, choice.addresses, strict=True)
        chosen = np.full(len(places), -1)

        def choose() -> list[int]:
            for choice, numbers in choices:
                chosen[numbers] = choice.wait()
            tokens: list[int] = chosen.tolist()
            return tokens

        def fetch(number: int) -> Logits:
            forward, row = places[number]
            logits: Logits = forward.logits(row, 1)[0]
            return logits

        def score(top: int) -> Mapping[int, Scored]:
            found: dict[int, tuple[Any, ...]] = {}
            for forward in dict.fromkeys(forward for forward, _ in places):
                told = [n for n, (its, _) in enumerate(places) if its is forward and chosen[n] >= 0]
                rows = [places[number][1] for number in told]
                columns = forward.score(rows, chosen[told].tolist(), top, None)
                found |= zip(told, zip(*columns, strict=True), strict=True)
            return {n: (logprob, ids, tops) for n, (logprob, _, ids, tops, _) in found.items()}

        def again(number: int, draw: Draw) -> Selected:
            forward, row = places[number]
            choice = TokenChoice(forward, [row], [draw]), [0]
            rows = DeviceRows(slots, [places[number]], [choice], [draw])
            rows.wait()
            return rows

        super().__init__(choose, draws, fetch, score, again)
