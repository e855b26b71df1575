"""Scores of tokens: equal to the oracle's, for any windows and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference
from gpt2rt import GPT2, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.fused import FusedSlots
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.errors import BadLogits, InvalidSetting, PromptTooLong
from gpt2rt.generation import batch
from gpt2rt.sampling.selection import Draw
from gpt2rt.scoring import readers
from gpt2rt.scoring.scoring import Passage, windows
from models import NOISE, REPEATABLE, TINY, LargerWeights, assert_same

TEXT = tuple(np.random.default_rng(5).integers(0, TINY.n_vocab, 200).tolist())


def oracle_scores(weights: LargerWeights, tokens: tuple[int, ...]) -> NDArray[np.float64]:
    """Natural log-probability of every token but the first, by the NumPy model."""
    logits = reference.logits(weights.read, TINY, list(tokens[:-1]))
    return np.log(reference.softmax(logits))[np.arange(len(tokens) - 1), list(tokens[1:])]


@pytest.mark.parametrize("length", [2, 3, 17, TINY.n_ctx, TINY.n_ctx + 1])
def test_scores_equal_oracle(tiny: GPT2, tiny_weights: LargerWeights, length: int) -> None:
    passage = Passage(TEXT[:length])
    scores = next(tiny.score_tokens([passage], top=4))
    noise = NOISE[tiny.bundle.manifest.precision]
    np.testing.assert_allclose(
        scores.logprobs, oracle_scores(tiny_weights, passage.tokens), atol=noise
    )
    assert scores.logprobs.dtype == np.float32
    assert scores.ranks.dtype == np.int32
    assert scores.top_ids.shape == scores.top_logprobs.shape == (length - 1, 4)


LENGTHS = [2, 3, 9, 10, 17, 2, 30, 49, 9, 5, 5, 48, 16, 2, 7, 33, 9, 10, 11, 12]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", REPEATABLE)
def test_a_passage_is_bit_equal_whatever_its_batch_mates(
    tiny_bundles: dict[str, Bundle], precision: str, threads: int, batch_size: int
) -> None:
    model = GPT2.load(tiny_bundles[precision].directory, threads=threads)
    passages = [
        Passage(TEXT[i : i + length], 1 + i % (length - 1)) for i, length in enumerate(LENGTHS)
    ]
    together = list(model.score_tokens(iter(passages), top=2, batch_size=batch_size))
    assert len(together) == len(passages)
    for passage, scores in zip(passages, together, strict=True):
        (alone,) = model.score_tokens([passage], top=2)
        for field in ("logprobs", "ranks", "top_ids", "top_logprobs"):
            np.testing.assert_array_equal(getattr(scores, field), getattr(alone, field))


@pytest.mark.parametrize("size", [8, 13, 16])
def test_pieces_of_a_passage_add_up(
    tiny: GPT2, tiny_weights: LargerWeights, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A passage longer than a step is read in several, each after the tokens of the last."""
    passages = [Passage(TEXT[: TINY.n_ctx + 1], first) for first in (1, 9, 17, TINY.n_ctx)]
    (whole, *_) = tiny.score_tokens(passages)
    monkeypatch.setattr(readers, "TOKENS", size)
    oracle = oracle_scores(tiny_weights, passages[0].tokens)
    precision = tiny.bundle.manifest.precision
    for passage, scores in zip(passages, tiny.score_tokens(passages), strict=True):
        np.testing.assert_allclose(
            scores.logprobs, oracle[passage.first - 1 :], atol=NOISE[precision]
        )
        assert_same(scores.logprobs, whole.logprobs[passage.first - 1 :], precision)


@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_a_step_has_no_more_rows_and_tokens_than_stated(
    tiny: GPT2, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(readers, "LOGITS", rows * tiny.hparams.n_vocab * 4 + 1)
    monkeypatch.setattr(readers, "TOKENS", 30)
    steps: list[list[Part]] = []
    real = FusedSlots.step

    def step(self: FusedSlots, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        steps.append(list(parts))
        return real(self, parts, draws)

    monkeypatch.setattr(FusedSlots, "step", step)
    passages = [Passage(TEXT[i : i + length]) for i, length in enumerate(LENGTHS)]
    assert len(list(tiny.score_tokens(passages, batch_size=6))) == len(passages)
    assert max(sum(len(part.tokens) for part in parts) for parts in steps) == min(rows, 30)
    assert 1 <= max(len(parts) for parts in steps) <= 6
    assert sum(part.wanted for parts in steps for part in parts) == sum(LENGTHS) - len(LENGTHS)


def test_beside_texts_scores_are_the_same_in_smaller_slices(
    tiny: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = [Passage(TEXT[i : i + length]) for i, length in enumerate(LENGTHS)]
    wanted = list(tiny.score_tokens(passages, top=2))
    monkeypatch.setattr(batch, "SLICE_BESIDE", 7)
    steps: list[int] = []
    real = FusedSlots.step

    def step(self: FusedSlots, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        if not draws:
            steps.append(sum(len(part.tokens) for part in parts))
        return real(self, parts, draws)

    monkeypatch.setattr(FusedSlots, "step", step)
    text = tiny.stream([1], stopping=Stopping(40, end_of_text=False))
    next(text)  # and then it rests
    found = list(tiny.score_tokens(passages, top=2))
    assert max(steps) <= 7
    precision = tiny.bundle.manifest.precision
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same(ours.logprobs, theirs.logprobs, precision)
        assert_same(ours.top_logprobs, theirs.top_logprobs, precision)
    assert list(text)


def test_any_number_of_passages_is_read_only_a_little_ahead(tiny: GPT2) -> None:
    taken = 0

    def endless() -> Iterator[Passage]:
        nonlocal taken
        while True:
            taken += 1
            yield Passage(TEXT[:40])

    scores = tiny.score_tokens(endless())
    assert len(next(scores).logprobs) == 39
    assert taken <= 4096 / 40 + 1


def test_logits_that_are_no_numbers_are_an_error(
    tiny: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FusedSlots,
        "step",
        lambda self, parts: np.full((2, 300), np.nan, np.float32),
    )
    with pytest.raises(BadLogits, match="not finite"):
        next(tiny.score_tokens([Passage((1, 2, 3))]))


def test_first_skips_scores_and_changes_none(tiny: GPT2) -> None:
    whole = next(tiny.score_tokens([Passage(TEXT[:40])]))
    for first in (2, 20, 39):
        some = next(tiny.score_tokens([Passage(TEXT[:40], first)]))
        np.testing.assert_array_equal(some.logprobs, whole.logprobs[first - 1 :])
        np.testing.assert_array_equal(some.ranks, whole.ranks[first - 1 :])


def test_ranks_and_alternatives_agree(tiny: GPT2) -> None:
    """With all tokens as alternatives: a sorted distribution that contains the token."""
    n_vocab = tiny.hparams.n_vocab
    passage = Passage(TEXT[:30])
    scores = next(tiny.score_tokens([passage], top=n_vocab))
    np.testing.assert_allclose(np.exp(scores.top_logprobs.astype(float)).sum(1), 1, atol=1e-5)
    assert (np.diff(scores.top_logprobs, axis=1) <= 0).all()
    for i, token in enumerate(passage.tokens[1:]):
        assert sorted(scores.top_ids[i]) == list(range(n_vocab))
        assert scores.top_ids[i, scores.ranks[i]] == token
        assert scores.top_logprobs[i, scores.ranks[i]] == scores.logprobs[i]
    few = next(tiny.score_tokens([passage], top=3))
    np.testing.assert_array_equal(few.top_ids, scores.top_ids[:, :3])


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 12, 47, 100])
@pytest.mark.parametrize(("size", "stride"), [(10, 10), (10, 5), (10, 1), (1, 1), (7, 3)])
def test_windows_score_every_token_once(count: int, size: int, stride: int) -> None:
    scored: list[int] = []
    for start, end, first in windows(count, size, stride):
        assert 0 <= start < first < end <= count
        assert end - start == min(count, size + 1)
        assert first - start >= min(first, size - stride + 1)
        scored += range(first, end)
    assert scored == list(range(1, count))


@pytest.mark.parametrize(("size", "stride"), [(10, 0), (10, 11), (10, -1), (0, 0)])
def test_windows_that_would_skip_tokens_are_refused(size: int, stride: int) -> None:
    with pytest.raises(InvalidSetting, match="window"):
        windows(50, size, stride)


@pytest.mark.parametrize(("tokens", "first"), [((), 1), ((1,), 1), ((1, 2), 0), ((1, 2), 2)])
def test_passages_with_nothing_to_score_are_refused(tokens: tuple[int, ...], first: int) -> None:
    with pytest.raises(InvalidSetting, match="position"):
        Passage(tokens, first)


def test_passages_the_model_cannot_read_are_refused(tiny: GPT2) -> None:
    with pytest.raises(PromptTooLong, match=f"{TINY.n_ctx + 2} tokens"):
        list(tiny.score_tokens([Passage(TEXT[: TINY.n_ctx + 2])]))
    for token in (-1, TINY.n_vocab):
        with pytest.raises(InvalidSetting, match=f"token {token}"):
            list(tiny.score_tokens([Passage((1, token, 2))]))


@pytest.mark.parametrize("bad", [{"top": -1}, {"top": TINY.n_vocab + 1}, {"batch_size": 0}])
def test_impossible_settings_are_refused_at_once(tiny: GPT2, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(bad))):
        tiny.score_tokens([], **bad)
