"""Scores of the tokens of any number of passages, many of which are read side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.checks import check_whole
from gpt2rt.errors import InvalidSetting
from gpt2rt.generation.batch import Batch
from gpt2rt.scoring.batching import cut, in_order
from gpt2rt.scoring.readers import Readers, ScoreReader, WantedScores, reader_of
from gpt2rt.scoring.scoring import Passage, TokenScores

Numbered = tuple[int, Passage]


def check(hparams: HParams, top: int, batch_size: int | None) -> None:
    """Raises `InvalidSetting` for invalid settings of `score_tokens`."""
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1)
    check_whole("top", top)
    if not 0 <= top <= hparams.n_vocab:
        why = f"top must be 0 to the vocabulary's {hparams.n_vocab}, not {top}"
        raise InvalidSetting(why, "top")


def score_tokens(
    readers: Readers,
    shared: Batch,
    hparams: HParams,
    passages: Iterable[Passage],
    *,
    top: int,
    batch_size: int | None,
    threads: int,
    group: NDArray[np.int64] | None = None,
) -> Iterator[TokenScores]:
    """Score passages, in their order.

    `readers` give slots, or a reader on the device; they are used between the steps of `shared`, in
    slices, so that texts in progress do not wait for long. `top` is the number of alternatives,
    `group` int64 [n] are tokens whose summed probability is returned; `threads` share the work on
    the logits.

    Up to `batch_size` passages are read side by side (None: as many as are useful). On a processor
    one that is longer than a step may be is read alone, in pieces. Raises `InvalidSetting`,
    `PromptTooLong`, `BadLogits`.
    """
    check(hparams, top, batch_size)
    checked = enumerate(_checked(passages, hparams))
    wanted = WantedScores(top, group)
    return _score_tokens(readers, shared, hparams, checked, batch_size, threads, wanted)


def _score_tokens(
    readers: Readers,
    shared: Batch,
    hparams: HParams,
    passages: Iterable[Numbered],
    batch_size: int | None,
    threads: int,
    wanted: WantedScores,
) -> Iterator[TokenScores]:
    with reader_of(readers, shared, hparams, threads, wanted) as reader:
        most = batch_size or reader.most
        jobs = (partial(_read, reader, batch) for batch in cut(passages, _length, reader, most))
        yield from in_order(reader.run(jobs))


def _checked(passages: Iterable[Passage], hparams: HParams) -> Iterator[Passage]:
    for passage in passages:
        passage.check(hparams)
        yield passage


def _length(numbered: Numbered) -> int:
    """The tokens that the model reads."""
    return len(numbered[1].tokens) - 1


def _read(reader: ScoreReader, batch: list[Numbered]) -> list[tuple[int, TokenScores]]:
    """The scores of a batch, with the numbers of its passages."""
    columns = reader.read([passage for _, passage in batch])
    found, start = [], 0
    for number, passage in batch:
        end = start + len(passage.tokens) - passage.first
        found.append((number, TokenScores(*columns.rows(slice(start, end)))))
        start = end
    return found
