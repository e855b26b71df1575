"""How likely a model finds the tokens of a text: log-probabilities, ranks, alternatives.

A passage is what the model reads at once. Its logits never leave this module, and are never held
for more than `ROWS` positions at a time: 25 MB for GPT-2's 50,257 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.slots import Logits, Slots
from gpt2rt.errors import BadLogits, InvalidSetting, PromptTooLong
from gpt2rt.scoring.batching import STEP, ahead, side_by_side

ROWS = 128  # positions whose logits are held at a time; as fast as more
BATCH_SIZE = ROWS // STEP  # passages side by side, at most

Columns = tuple[
    NDArray[np.float32],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.float32],
    NDArray[np.float32],
]  # as in `TokenScores`


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens that the model reads at once: 2 to n_ctx + 1 of them, since the last is no input.

    Those from position `first` on are scored, those before it are only read.
    """

    tokens: tuple[int, ...]
    first: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.first < len(self.tokens):
            raise InvalidSetting(
                f"a passage of {len(self.tokens)} tokens cannot be scored from position "
                f"{self.first}: choose one from 1 to {len(self.tokens) - 1}"
            )

    def check(self, hparams: HParams) -> None:
        """Raises `PromptTooLong`, or `InvalidSetting` for a token the model does not have."""
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
    """Of the n tokens of a passage that are scored, in their order.

    `logprobs` float32 [n], natural logarithms; `ranks` int32 [n], how many tokens were more likely:
    0 for the most likely one. `top_ids` int32 and `top_logprobs` float32 [n, top] are the most
    likely tokens at each place, best first. `group` float32 [n] is the log-probability that one of
    the tokens asked for (none: NaN) stands at the place.
    """

    logprobs: NDArray[np.float32]
    ranks: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    group: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


def windows(count: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """A window that slides over `count` tokens: (start, end, first scored), all counted from the
    beginning of the text, so that `Passage(tokens[start:end], first - start)` is its passage.

    Every token but the first, before which there is nothing, is scored exactly once. A window has
    `size` inputs, so `size + 1` tokens, where the text has them; each but the first scores the
    `stride` tokens (the last: what is left) that end it. So every token is predicted from at least
    `size - stride + 1` tokens before it, or from all there are. Raises `InvalidSetting`.
    """
    if size < 1:
        raise InvalidSetting(f"the window must be 1 token or more, not {size}")
    if not 1 <= stride <= size:
        raise InvalidSetting(f"the stride must be 1 to the window's {size} tokens, not {stride}")
    return _windows(count, size, stride)


def _windows(count: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    first, end = 1, min(count, size + 1)
    while first < end:
        yield max(0, end - size - 1), end, first
        first, end = end, min(count, end + stride)


def check(hparams: HParams, top: int, batch_size: int) -> None:
    """Raises `InvalidSetting` for settings that no scoring could obey."""
    if batch_size < 1:
        raise InvalidSetting(f"batch_size must be 1 or more, not {batch_size}")
    if not 0 <= top <= hparams.n_vocab:
        raise InvalidSetting(f"top must be 0 to the vocabulary's {hparams.n_vocab}, not {top}")


def score_tokens(
    new_slots: Callable[[int], Slots],
    hparams: HParams,
    passages: Iterable[Passage],
    *,
    top: int,
    batch_size: int,
    threads: int,
    group: NDArray[np.int64] | None = None,
) -> Iterator[TokenScores]:
    """The scores of each passage, in their order. Raises `InvalidSetting`, `PromptTooLong`.

    Passages of at most `ROWS` inputs are padded to a multiple of `STEP` and read side by side with
    others of that length; longer ones alone, `ROWS` positions after the other. So the arithmetic of
    a passage depends on its own length only. `threads` share the work on the logits.
    """
    check(hparams, top, batch_size)
    return _score_tokens(new_slots, hparams, passages, top, batch_size, threads, group)


def _score_tokens(
    new_slots: Callable[[int], Slots],
    hparams: HParams,
    passages: Iterable[Passage],
    top: int,
    batch_size: int,
    threads: int,
    group: NDArray[np.int64] | None,
) -> Iterator[TokenScores]:
    slots = new_slots(1)
    most = min(batch_size, ROWS // STEP)
    with ThreadPoolExecutor(threads) as pool:
        for taken in ahead(_checked(passages, hparams), lambda passage: len(passage.tokens)):
            lengths = [len(passage.tokens) - 1 for passage in taken]
            scores: dict[int, TokenScores] = {}
            for numbers, width in side_by_side(lengths, hparams.n_ctx, ROWS, most):
                chosen = [taken[number] for number in numbers]
                if len(chosen) > slots.count:
                    slots = new_slots(len(chosen))
                found = _score(slots, chosen, width, top, partial(_shared, pool, threads, group))
                scores |= zip(numbers, found, strict=True)
            yield from (scores[number] for number in range(len(taken)))


def _checked(passages: Iterable[Passage], hparams: HParams) -> Iterator[Passage]:
    for passage in passages:
        passage.check(hparams)
        yield passage


def _score(
    slots: Slots,
    passages: list[Passage],
    width: int,
    top: int,
    reduce: Callable[[Logits, NDArray[np.int32], int], list[Columns]],
) -> Iterator[TokenScores]:
    """The scores of passages whose inputs are padded to `width`; several only up to `ROWS`."""
    inputs = np.zeros((len(passages), width), np.int32)
    targets = np.zeros((len(passages), width), np.int32)
    wanted = np.zeros((len(passages), width), bool)
    for row, passage in enumerate(passages):
        length = len(passage.tokens) - 1
        inputs[row, :length] = passage.tokens[:-1]
        targets[row, :length] = passage.tokens[1:]
        wanted[row, passage.first - 1 : length] = True
    parts: list[Columns] = []
    for start in range(0, width, ROWS):
        piece = np.s_[:, start : start + ROWS]
        rows = np.flatnonzero(wanted[piece])
        # One row alone would take another kernel, whose sums end in other bits.
        asked = np.resize(rows, max(2, len(rows))) if len(rows) else np.zeros(1, int)
        logits = slots.forward(inputs[piece], start, asked.tolist())[: len(rows)]
        parts += reduce(logits, targets[piece].ravel()[rows], top)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ends = np.cumsum(wanted.sum(axis=1))[:-1]
    pieces = (np.split(column, ends) for column in columns)
    return (TokenScores(*columns) for columns in zip(*pieces, strict=True))


def _shared(
    pool: ThreadPoolExecutor,
    threads: int,
    group: NDArray[np.int64] | None,
    logits: Logits,
    targets: NDArray[np.int32],
    top: int,
) -> list[Columns]:
    """`_reduce`, its rows divided among the threads."""
    size = max(1, -(-len(targets) // threads))
    parts = [slice(start, start + size) for start in range(0, max(1, len(targets)), size)]
    return list(pool.map(lambda part: _reduce(logits[part], targets[part], top, group), parts))


def _reduce(
    logits: Logits, targets: NDArray[np.int32], top: int, group: NDArray[np.int64] | None
) -> Columns:
    """[R,V] -> log-probability [R] and rank [R] of the targets, best ids and theirs [R,top], and
    log-probability [R] of the group.

    A row at a time, since a row fits the processor's cache and a hundred do not.
    """
    count, n_vocab = logits.shape
    logprobs, ranks = np.empty(count, np.float32), np.empty(count, np.int32)
    ids, values = np.empty((count, top), np.int32), np.empty((count, top), np.float32)
    grouped = np.full(count, np.nan, np.float32)
    powers, above = np.empty(n_vocab, np.float32), np.empty(n_vocab, bool)
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        largest = row.max()
        if not np.isfinite(largest):
            raise BadLogits("the model's logits are not finite; its weights are damaged")
        np.exp(np.subtract(row, largest, out=powers), out=powers)
        total = np.log(powers.sum()) + largest
        if group is not None:
            grouped[i] = np.log(powers[group].sum()) + largest - total
        logprobs[i] = row[target] - total
        ranks[i] = np.count_nonzero(np.greater(row, row[target], out=above))
        if top:
            best = np.argpartition(row, -top)[-top:]
            ids[i] = best[np.lexsort((best, -row[best]))]
            values[i] = row[ids[i]] - total
    return logprobs, ranks, ids, values, grouped
