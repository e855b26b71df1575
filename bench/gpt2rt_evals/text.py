"""Finds where a word begins in tokens, and cuts texts to fit into a context."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from gpt2rt.scoring.scoring import Passage
from gpt2rt_evals.model import LanguageModel


def ends(model: LanguageModel, tokens: Sequence[int]) -> list[int]:
    """The byte at which each token ends, counted from the beginning of the first."""
    lengths = {token: len(model.decode_bytes([token])) for token in set(tokens)}
    return list(accumulate(lengths[token] for token in tokens))


def token_at(model: LanguageModel, tokens: Sequence[int], before: str) -> int:
    """The number of the token with the first byte after the beginning `before` of the text.

    That token may begin inside `before`, with a space for example.
    """
    return bisect_right(ends(model, tokens), len(before.encode("utf-8")))


def clip(model: LanguageModel, tokens: Sequence[int], first: int) -> Passage:
    """The tokens as a passage scored from `first` on, without what is too much at its beginning."""
    dropped = max(0, len(tokens) - model.n_ctx - 1)
    return Passage(tuple(tokens[dropped:]), max(1, first - dropped))


def last_tokens(model: LanguageModel, text: str, count: int) -> str:
    """The longest end of `text` of at most `count` tokens, in whole characters."""
    return _cut(model, text, count, from_end=True)


def first_tokens(model: LanguageModel, text: str, count: int) -> str:
    """The longest beginning of `text` of at most `count` tokens, in whole characters."""
    return _cut(model, text, count, from_end=False)


def _cut(model: LanguageModel, text: str, count: int, *, from_end: bool) -> str:
    keep = count
    while len(tokens := model.encode(text)) > count and keep > 0:
        kept = tokens[-keep:] if from_end else tokens[:keep]
        text = model.decode_bytes(kept).decode("utf-8", "ignore")
        keep -= 1  # cut text may have more tokens than the whole one had there
    return text if keep > 0 else ""


def room(model: LanguageModel, length: int) -> tuple[int, int]:
    """How many new tokens, of `length` wanted ones, and prompt tokens fit the context together."""
    length = min(length, model.n_ctx // 2)
    return length, model.n_ctx - length
