"""Few-shot prompts: solved examples, then the one to solve.

The solved ones come from the data set itself, drawn by the run's seed, the same for every prompt;
an example is never shown its own solution: where it is one of those drawn, the next takes its
place. The paper does not say how many it showed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.text import last_tokens


class Shots:
    """`solved` are all examples as text, in order."""

    def __init__(self, solved: Sequence[str], count: int, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(solved))
        self._drawn = [int(i) for i in order[: count + 1]]
        self._count = count
        self._solved = solved

    def prompt(self, model: LanguageModel, number: int, question: str, count: int) -> str:
        """Solved examples before `question`, number `number`, as many as `count` tokens hold."""
        shown = [self._solved[i] for i in self._drawn if i != number][: self._count]
        while shown and len(model.encode("".join(shown) + question)) > count:
            shown.pop(0)
        return last_tokens(model, "".join(shown) + question, count)
