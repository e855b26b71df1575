"""Summarises rounds: medians, percentiles and confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

import numpy as np

from gpt2rt_bench.cases import OURS
from gpt2rt_bench.latency import CaseResult

PERCENTILES = (50, 90, 99)
CONFIDENCE = 0.95
METHOD = (
    "interval of the median over rounds from the ranks of the rounds (binomial, no assumption "
    "about their distribution)"
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Median of a figure over rounds, and an interval that holds the true one with `confidence`.

    The narrowest pair of ranks, equally far from either end, of at least `CONFIDENCE`; where there
    are too few rounds for that (under 6), the smallest and the largest, with what they give.
    """

    median: float
    low: float
    high: float
    confidence: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        ordered, n = sorted(values), len(values)
        coverage, cut = 0.0, 0
        for k in range((n + 1) // 2):  # k values are left out at either end
            inside = 1 - 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
            if k and inside < CONFIDENCE:
                break
            coverage, cut = max(0.0, inside), k
        return cls(float(median(ordered)), ordered[cut], ordered[n - 1 - cut], coverage)

    def between(self, form: str) -> str:
        """The interval as text; of one round there is none."""
        low, high = form.format(self.low), form.format(self.high)
        return f"{low}–{high}" if self.confidence else ""


@dataclass(frozen=True, slots=True)
class Summary:
    """One case in figures; milliseconds, bytes, and tokens per second of the whole batch.

    `prefill_ms` is the time to the first token of every row; `token_ms` are the percentiles of all
    decode steps of all rounds; `spread` is half the interquartile range of the rounds' median
    steps, as a share of their median; `ratio` compares tokens per second, round by round, with a
    baseline; `shares` add up to 1.
    """

    prefill_ms: Interval
    step_ms: Interval
    token_ms: dict[int, float]
    tokens_per_second: Interval
    spread: float
    ratio: Interval | None
    shares: dict[str, float] | None
    peak_bytes: int | None


def summarise(result: CaseResult, beside: CaseResult | None = None) -> Summary:
    """The figures of a case; `beside`: its baseline, measured in the same rounds."""
    answers = result.answers
    steps = [median(answer.step_ms) for answer in answers]
    low, middle, high = np.percentile(steps, (25, 50, 75))
    every = np.concatenate([answer.step_ms for answer in answers])
    peaks = [answer.peak_bytes for answer in answers if answer.peak_bytes is not None]
    return Summary(
        prefill_ms=Interval.of([answer.prefill_ms for answer in answers]),
        step_ms=Interval.of(steps),
        token_ms={p: float(np.percentile(every, p)) for p in PERCENTILES},
        tokens_per_second=Interval.of([1e3 * result.case.batch / step for step in steps]),
        spread=float((high - low) / 2 / middle),
        ratio=None if beside is None else _ratio(steps, beside),
        shares=_shares(result),
        peak_bytes=max(peaks, default=None),
    )


def _ratio(steps: Sequence[float], beside: CaseResult) -> Interval:
    others = [median(answer.step_ms) for answer in beside.answers]
    return Interval.of([other / own for own, other in zip(steps, others, strict=True)])


def _shares(result: CaseResult) -> dict[str, float] | None:
    """The shares of a request's time by their use, from medians over rounds; None if unknown."""
    known = [answer.shares for answer in result.answers if answer.shares]
    if not known:
        return None
    parts = {name: median(shares[name] for shares in known) for name in known[0]}
    whole = sum(parts.values())
    return {name: part / whole for name, part in parts.items()}


def agreement(result: CaseResult, beside: CaseResult) -> float:
    """The share of greedy tokens up to where a text parts from the one of `beside`, over all rows
    of all rounds.
    """
    pairs = [
        list(zip(row, other, strict=True))
        for answer, theirs in zip(result.answers, beside.answers, strict=True)
        for row, other in zip(answer.tokens, theirs.tokens, strict=True)
    ]
    leading = sum(len(list(takewhile(lambda pair: pair[0] == pair[1], row))) for row in pairs)
    return leading / sum(map(len, pairs))


def baseline(result: CaseResult, results: Sequence[CaseResult]) -> CaseResult | None:
    """The result that a case is compared with; None for the first one of its prompt and batch.

    A case of another library is compared with gpt2rt's of the same model and threads, on the same
    provider if possible; one of gpt2rt with the first of the same prompt and batch.
    """
    case, mine = result.case, result.case.configuration
    ours = [
        other
        for other in results
        if (other.case.prompt, other.case.batch) == (case.prompt, case.batch)
        and other.case.configuration.library == OURS
    ]
    if mine.library != OURS:
        ours = [
            other
            for other in ours
            if other.case.configuration.model == mine.model
            and other.case.configuration.threads == mine.threads
        ]
        ours.sort(key=lambda other: other.subject.ready.provider != mine.provider)
    return None if not ours or ours[0] is result else ours[0]
