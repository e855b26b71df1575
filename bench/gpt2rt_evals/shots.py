"""Makes few-shot prompts: solved examples, then the question.

The solved examples are drawn from the data set by the run's seed, the same for every prompt; an
example never gets its own solution: where it is one of those drawn, the next one takes its place.
The paper does not give the number of its examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.text import last_tokens


class Shots:
    """Draws `count` of the examples `solved`, all of the data set as text, in order."""

    def __init__(self, solved: Sequence[str], count: int, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(solved))
        self._drawn = [int(i) for i in order[: count + 1]]
        self._count = count
        self._solved = solved

    def prompt(self, model: LanguageModel, number: int, question: str, count: int) -> str:
        """The prompt of example `number`, at most `count` tokens: solved ones, `question`."""
        shown = [self._solved[i] for i in self._drawn if i != number][: self._count]
        while shown and len(model.encode("".join(shown) + question)) > count:
            shown.pop(0)
        return last_tokens(model, "".join(shown) + question, count)
