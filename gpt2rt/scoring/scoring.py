"""Passages to be scored, and the scores of their tokens.

A passage is a sequence of tokens that fits the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.slots import Part
from gpt2rt.errors import InvalidSetting, PromptTooLong


@dataclass(frozen=True, slots=True)
class Passage:
    """2 to n_ctx + 1 tokens to be scored, of which the last is not an input of the model.

    Tokens from index `first` on are scored, those before it are only context. Raises
    `InvalidSetting` if `first` is not an index from 1 on.
    """

    tokens: tuple[int, ...]
    first: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.first < len(self.tokens):
            raise InvalidSetting(
                f"a passage of {len(self.tokens)} tokens cannot be scored from position "
                f"{self.first}: choose one from 1 to {len(self.tokens) - 1}"
            )

    @property
    def inputs(self) -> tuple[int, ...]:
        """The tokens that the model reads."""
        return self.tokens[:-1]

    def part(self, slot: int, start: int, size: int) -> Part:
        """The part of a step that reads up to `size` inputs from `start` on."""
        tokens = self.inputs[start : start + size]
        scored = start + len(tokens) - (self.first - 1)
        return Part(slot, start, tokens, min(len(tokens), max(0, scored)))

    def targets(self, part: Part) -> tuple[int, ...]:
        """The tokens that are scored after those of a part."""
        return self.tokens[part.end - part.wanted + 1 : part.end + 1]

    def check(self, hparams: HParams) -> None:
        """Raises `PromptTooLong`, or `InvalidSetting` for a token outside the vocabulary."""
        if len(self.tokens) > hparams.n_ctx + 1:
            raise PromptTooLong(
                f"a passage has {len(self.tokens)} tokens, the model reads {hparams.n_ctx} and "
                "scores one more; cut it into windows"
            )
        for token in (min(self.tokens), max(self.tokens)):
            if not 0 <= token < hparams.n_vocab:
                raise InvalidSetting(
                    f"token {token} is not in the vocabulary, which has 0 to {hparams.n_vocab - 1}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """The scores of the n scored tokens of a passage, in their order.

    `logprobs` float32 [n] are log-probabilities in nats; `ranks` int32 [n] are the numbers of
    tokens that were more likely. `top_ids` int32 and `top_logprobs` float32 [n, top] are the
    likeliest tokens at each position, best first. `group` float32 [n] is the log-probability of any
    token of the requested group at each position (NaN without a group).
    """

    logprobs: NDArray[np.float32]
    ranks: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    group: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


def windows(count: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over `count` tokens: (start, end, first scored), as indices of the text's tokens.

    `Passage(tokens[start:end], first - start)` is the passage of a window. Every token but the
    first is scored exactly once. A window has `size` inputs and so up to `size + 1` tokens; each
    window but the first scores its last `stride` tokens (the last window: those that are left). So
    every token is predicted from all tokens before it, or at least from `size - stride + 1`. Raises
    `InvalidSetting`.
    """
    if size < 1:
        raise InvalidSetting(f"the window must be 1 token or more, not {size}", "window")
    if not 1 <= stride <= size:
        raise InvalidSetting(
            f"the stride must be 1 to the window's {size} tokens, not {stride}", "stride"
        )
    return _windows(count, size, stride)


def _windows(count: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    first, end = 1, min(count, size + 1)
    while first < end:
        yield max(0, end - size - 1), end, first
        first, end = end, min(count, end + stride)
