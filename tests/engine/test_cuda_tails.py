"""What tails choose from made-up logits, with ties: in order, by share, changed as on the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cuda_draws import FEW, SETTINGS, WIDE, assert_falls, draw_of, shares
from gpt2rt import HParams, SamplingParams
from gpt2rt.bundles.interface import OFFSET, TRIES, UNIFORM, tail
from gpt2rt.engine.cuda.tails import LARGEST_SHARE, Tails, changes, settings
from gpt2rt.sampling.history import Edits, History
from gpt2rt.sampling.selection import BEST, Draw
from gpt2rt_export.onnx_graph.cuda_tails import tails

# Where there is a device, all of this runs on it.
pytestmark = pytest.mark.cuda


OFFSET_OF_ALL = 101.25  # of made-up logits


def over(
    hparams: HParams, logits: NDArray[np.float16], draws: list[Draw], kind: str | None = None
) -> list[int]:
    """What a tail chooses from these logits [R, n_vocab]; None: the cheapest."""
    kind = kind or Tails.kind_for(draws)
    model = tails(hparams)[kind].SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    filters = [(draw.inverse_temperature, draw.top_k, draw.top_p, draw.min_p) for draw in draws]
    values = settings(filters, hparams.n_vocab) | changes(draws, 64)
    values[UNIFORM.name] = np.minimum([draw.uniform for draw in draws], LARGEST_SHARE)
    values[TRIES.name] = np.array([draw.tries for draw in draws])
    values[OFFSET.name] = np.full(len(draws), OFFSET_OF_ALL)
    feeds = {
        port.name: values[port.name].reshape(len(draws), -1).astype(port.dtype)
        for port in tail(hparams, kind).arguments[1:]
    }
    finite, chosen = session.run(None, {"logits": logits, **feeds})
    return [
        int(c) if np.isfinite(f) else -1 for f, c in zip(finite[:, 0], chosen[:, 0], strict=True)
    ]


def ties(n_vocab: int) -> Iterator[NDArray[np.float16]]:
    """Rows with ever fewer different logits."""
    random = np.random.default_rng(n_vocab)
    for levels in (3000, 60, 12, 3):
        yield (random.integers(0, levels, n_vocab) / levels * 8).astype(np.float16)


@pytest.mark.parametrize("hparams", [WIDE, FEW], ids=["wide", "few"])
@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_of_equal_logits_the_lower_ids_come_first(hparams: HParams, params: SamplingParams) -> None:
    random = np.random.default_rng(4)
    for logits in ties(hparams.n_vocab):
        draws = [draw_of(params, number) for number in random.random(30)]
        found = over(hparams, np.tile(logits, (30, 1)), draws)
        wanted = shares(logits.astype(np.float32), params)
        for token, draw in zip(found, draws, strict=True):
            if hparams is FEW or token >= 0:
                assert_falls(token, draw, wanted)


def test_it_does_not_choose_where_the_shortlist_does_not_suffice() -> None:
    flat = np.linspace(0, 1, 700).astype(np.float16)[None]
    tied = np.ones((1, 700), np.float16)
    for logits, draw in (
        (flat, Draw(1.0, 0.5, top_p=0.99)),
        (flat, Draw(1.0, 0.5, min_p=0.1)),
        (flat, Draw(1.0, 0.5, top_k=300)),
        (tied, Draw(1.0, 0.5, top_k=9)),
        (tied, Draw(1.0, 0.5, top_p=0.01)),
    ):
        assert over(WIDE, logits, [draw]) == [-1]
    for draw in (BEST, Draw(1.0, 0.5), Draw(1.0, 0.5, top_k=9)):
        assert over(WIDE, np.full((1, 700), np.nan, np.float16), [draw]) == [-1]


# ---- nuclei of more tokens than the shortlist has


FLAT = [
    SamplingParams(top_p=0.9, temperature=2.0),
    SamplingParams(top_p=0.3, temperature=3.0),
    SamplingParams(min_p=0.2, temperature=2.0),
    SamplingParams(top_p=0.8, min_p=0.25, temperature=2.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("params", FLAT, ids=str)
def test_of_a_wide_nucleus_every_token_is_chosen_as_often_as_it_should_be(
    params: SamplingParams,
) -> None:
    """And a share (1 - p)**4 of rows is left, where none of four tokens is kept."""
    count, random = 4000, np.random.default_rng(8)
    for logits in list(ties(WIDE.n_vocab))[::2]:
        wanted = shares(logits.astype(np.float32), params)
        weights = shares(logits.astype(np.float32), replace(params, top_p=1.0, min_p=0.0))
        draws = [
            draw_of(params, 0)._replace(tries=tuple(numbers))
            for numbers in random.random((count, 4)).tolist()
        ]
        found = np.array(over(WIDE, np.tile(logits, (count, 1)), draws, "wide"))
        kept = float(weights[wanted > 0].sum())
        left = (1 - kept) ** 4
        assert np.mean(found < 0) == pytest.approx(left, abs=4 * np.sqrt(left / count) + 1e-9)
        got = np.bincount(found[found >= 0], minlength=WIDE.n_vocab)
        assert not got[wanted == 0].any()
        expected = got.sum() * wanted[wanted > 0]
        score = float((np.square(got[wanted > 0] - expected) / expected).sum())
        freedom = len(expected) - 1
        assert abs(score - freedom) < 5 * np.sqrt(2 * freedom + 1)


def test_the_first_of_the_tries_that_is_kept_is_taken() -> None:
    logits = np.linspace(0, 1, 700).astype(np.float16)
    params = SamplingParams(top_p=0.5)
    wanted = shares(logits.astype(np.float32), params)
    weights = shares(logits.astype(np.float32), SamplingParams())
    for tries in np.random.default_rng(9).random((40, 4)).tolist():
        tokens = [int(np.searchsorted(np.cumsum(weights), number)) for number in tries]
        kept = [token for token in tokens if wanted[token] > 0]
        draw = draw_of(params, 0)._replace(tries=tuple(tries))
        assert over(WIDE, logits[None], [draw], "wide") == [kept[0] if kept else -1]
    none = np.full((1, 700), np.nan, np.float16)
    assert over(WIDE, none, [draw], "wide") == [-1]


# ---- penalties, biases and bans


PENALTIES = [
    (SamplingParams(repetition_penalty=1.3), Edits()),
    (SamplingParams(frequency_penalty=0.3, presence_penalty=-0.2, top_k=40), Edits()),
    (SamplingParams(repetition_penalty=0.7, no_repeat_ngram=2, temperature=0), Edits()),
    (
        SamplingParams(presence_penalty=0.5, min_length=9, top_p=0.4, temperature=0.5),
        Edits(((3, 4.5), (8, -np.inf), (9, -1e6), (11, 1e6)), ((5,), (6, 7)), (12,)),
    ),
    (SamplingParams(repetition_penalty=1.2, min_p=0.3), Edits(((11, 2.0),))),
    (SamplingParams(min_length=3), Edits()),  # changes nothing
]


@pytest.mark.parametrize("hparams", [WIDE, FEW], ids=["wide", "few"])
@pytest.mark.parametrize(("params", "edits"), PENALTIES, ids=str)
def test_changed_logits_are_chosen_from_as_the_host_changes_them(
    hparams: HParams, params: SamplingParams, edits: Edits
) -> None:
    random = np.random.default_rng(6)
    for logits in ties(hparams.n_vocab):
        history = History(params, edits, random.integers(0, 30, 20).tolist())
        for token in random.integers(0, 30, 7).tolist():
            history.take(token)
        numbers = [0.0] * 20 if params.greedy else random.random(20).tolist()
        draws = [draw_of(params, number)._replace(changes=history.changes()) for number in numbers]
        found = over(hparams, np.tile(logits, (20, 1)), draws)
        changed = history.edit(logits.astype(np.float32) - np.float32(OFFSET_OF_ALL))
        for token, draw in zip(found, draws, strict=True):
            if params.greedy:
                assert token == changed.argmax()
            elif hparams is FEW or token >= 0:
                assert_falls(token, draw, shares(changed, params))
