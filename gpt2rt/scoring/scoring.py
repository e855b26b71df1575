"""Scores of tokens: log-probabilities, ranks and the likeliest alternatives.

A passage is a sequence of tokens that fits the context. Its logits are reduced on the device, or
here; they take at most `LOGITS` bytes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.checks import check_whole
from gpt2rt.engine.slots import Columns, Logits, Part, Slots
from gpt2rt.errors import BadLogits, InvalidSetting, PromptTooLong
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.client import Client
from gpt2rt.scoring.batching import batches

TOKENS = 256  # most tokens in a step; more would not be faster
LOGITS = 64 << 20  # most bytes of logits: 333 rows of GPT-2's 50,257 tokens
BATCH_SIZE = 16  # most passages in a step, by default


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


def check(hparams: HParams, top: int, batch_size: int) -> None:
    """Raises `InvalidSetting` for invalid settings of `score_tokens`."""
    check_whole("batch_size", batch_size, 1)
    check_whole("top", top)
    if not 0 <= top <= hparams.n_vocab:
        why = f"top must be 0 to the vocabulary's {hparams.n_vocab}, not {top}"
        raise InvalidSetting(why, "top")


def score_tokens(
    new_slots: Callable[[int], Slots],
    shared: Batch,
    hparams: HParams,
    passages: Iterable[Passage],
    *,
    top: int,
    batch_size: int,
    threads: int,
    group: NDArray[np.int64] | None = None,
) -> Iterator[TokenScores]:
    """Score passages, in their order.

    `new_slots` makes the slots that are needed; they are stepped between the steps of `shared`, in
    slices, so that texts in progress do not wait for long. `top` is the number of alternatives,
    `group` int64 [n] are tokens whose summed probability is returned; `threads` share the work on
    the logits.

    Up to `batch_size` passages are read side by side. One that is longer than a step may be is read
    alone, in pieces. Raises `InvalidSetting`, `PromptTooLong`, `BadLogits`.
    """
    check(hparams, top, batch_size)
    return _score_tokens(new_slots, shared, hparams, passages, top, batch_size, threads, group)


def _score_tokens(
    new_slots: Callable[[int], Slots],
    shared: Batch,
    hparams: HParams,
    passages: Iterable[Passage],
    top: int,
    batch_size: int,
    threads: int,
    group: NDArray[np.int64] | None,
) -> Iterator[TokenScores]:
    slots, most = new_slots(1), step_size(hparams)

    def size() -> int:
        return min(most, shared.slice)

    with shared.client(0) as client, ThreadPoolExecutor(threads) as pool:
        reduce = partial(_divided, pool, threads, group)
        checked = _checked(passages, hparams)
        for batch in batches(checked, lambda passage: len(passage.inputs), size, batch_size):
            if len(batch) > slots.count:
                slots = new_slots(len(batch))
            score = partial(_step, client, slots, reduce, group, top)
            yield from _score(score, batch, size, top)


def _step(
    client: Client,
    slots: Slots,
    reduce: Callable[[Logits, NDArray[np.int32], int], list[Columns]],
    group: NDArray[np.int64] | None,
    top: int,
    parts: list[Part],
    targets: list[int],
) -> list[Columns]:
    """The scores of a step of the slots, which is made between two of the batch."""

    def step() -> Columns | Logits:
        found = slots.score(parts, targets, top, group)
        return np.asarray(slots.step(parts)) if found is None else found

    found = client.call(step)
    if isinstance(found, Columns):
        return [found]
    return reduce(found, np.array(targets, np.int32), top)


def step_size(hparams: HParams) -> int:
    """The most tokens in a step, so that their logits are at most `LOGITS` bytes."""
    return max(1, min(TOKENS, LOGITS // (hparams.n_vocab * np.dtype(np.float32).itemsize)))


def _checked(passages: Iterable[Passage], hparams: HParams) -> Iterator[Passage]:
    for passage in passages:
        passage.check(hparams)
        yield passage


def _score(
    score: Callable[[list[Part], list[int]], list[Columns]],
    passages: list[Passage],
    size: Callable[[], int],
    top: int,
) -> Iterator[TokenScores]:
    """The scores of a batch (see `batches`); one passage alone is read `size()` at a time."""
    found: list[Columns] = []
    start, longest = 0, max(len(passage.inputs) for passage in passages)
    while start < longest:
        count = longest if len(passages) > 1 else size()
        parts = [passage.part(slot, start, count) for slot, passage in enumerate(passages)]
        start += count
        targets = [
            token
            for passage, part in zip(passages, parts, strict=True)
            for token in passage.tokens[part.end - part.wanted + 1 : part.end + 1]
        ]
        found += score(parts, targets)
    joined = Columns.joined(found, top)
    ends = np.cumsum([len(passage.tokens) - passage.first for passage in passages])[:-1]
    pieces = (np.split(column, ends) for column in joined)
    return (TokenScores(*columns) for columns in zip(*pieces, strict=True))


def _divided(
    pool: ThreadPoolExecutor,
    threads: int,
    group: NDArray[np.int64] | None,
    logits: Logits,
    targets: NDArray[np.int32],
    top: int,
) -> list[Columns]:
    """As `_reduce`, with the rows divided among the threads."""
    size = max(1, -(-len(targets) // threads))
    parts = [slice(start, start + size) for start in range(0, max(1, len(targets)), size)]
    return list(pool.map(lambda part: _reduce(logits[part], targets[part], top, group), parts))


def _reduce(
    logits: Logits, targets: NDArray[np.int32], top: int, group: NDArray[np.int64] | None
) -> Columns:
    """Reduce logits [R, n_vocab] to the columns of `TokenScores`, for the tokens `targets` [R].

    It computes a row at a time, since a row fits the processor's cache and a hundred do not.
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
    return Columns(logprobs, ranks, ids, values, grouped)
