"""Computes metrics and their confidence intervals from sums over examples.

Each example gives a few numbers, and a metric is a function of their totals. One seeded bootstrap
serves all metrics: as many examples as there are, drawn with replacement 1,000 times, and the
middle 95 % of the figures (Efron 1979; for BLEU Koehn 2004).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import missing_extra

Record = dict[str, Any]
DRAWS = 1000
CONFIDENCE = 0.95
SIZES = ("117M", "345M", "762M", "1542M")


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a task.

    `counts`: the fields of a record that are summed (lists item by item); `figure`: sums -> the
    figure; `paper`: the paper's figures by model size.
    """

    name: str
    counts: tuple[str, ...]
    figure: Callable[[NDArray[np.float64]], float]
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric's value, and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def measure(metric: Metric, records: Sequence[Record]) -> Figure:
    """The metric over all records (one or more), with a bootstrap of fixed seed."""
    rows = np.array([_flat(record, metric.counts) for record in records], np.float64)
    random = np.random.default_rng(0)
    count = len(rows)
    drawn = np.empty(DRAWS)
    for i in range(DRAWS):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        drawn[i] = metric.figure(times @ rows)
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside], method="nearest")
    return Figure(metric.figure(rows.sum(axis=0)), float(low), float(high))


def _flat(record: Record, counts: Sequence[str]) -> list[float]:
    flat: list[float] = []
    for name in counts:
        value = record[name]
        flat += value if isinstance(value, list) else [value]
    return flat


def paper(*figures: float) -> dict[str, float]:
    """The paper's figures for the four sizes; a single one is the largest model's."""
    return dict(zip(SIZES if len(figures) == len(SIZES) else SIZES[-1:], figures, strict=True))


def perplexity(sums: NDArray[np.float64]) -> float:
    """exp(nats / units), of the sums (nats, units)."""
    nats, units = sums
    try:
        return math.exp(nats / units)
    except OverflowError:
        return math.inf


def bits(sums: NDArray[np.float64]) -> float:
    """Bits per unit, of the sums (nats, units)."""
    nats, units = sums
    return float(nats / units / math.log(2))


def percent(sums: NDArray[np.float64]) -> float:
    """The mean in percent, of the sums (total, examples)."""
    total, examples = sums
    return float(100 * total / examples)


def accuracy(field_name: str, label: str, figures: Mapping[str, float] | None = None) -> Metric:
    """The metric that is the mean of a field between 0 and 1, in percent."""
    return Metric(label, (field_name, "examples"), percent, figures or {})


# ---- answers to questions


def normalised(answer: str) -> list[str]:
    """The words of an answer as SQuAD and CoQA compare them: lower case, no punctuation, no
    articles (Rajpurkar et al. 2016)."""
    plain = "".join(c for c in answer.lower() if c not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", plain).split()


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references, word for word once normalised, else 0."""
    return float(any(normalised(answer) == normalised(reference) for reference in references))


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words that the two have in common."""
    a, b = normalised(answer), normalised(reference)
    if not a or not b:
        return float(a == b)
    common = (Counter(a) & Counter(b)).total()
    return 2 * common / (len(a) + len(b))


def f1_of_many(answer: str, references: Sequence[str]) -> float:
    """CoQA's F1: with several references, the best F1 without one of them, averaged over the one
    left out, since a human answer is compared with the others."""
    scores = [f1(answer, reference) for reference in references]
    if len(scores) == 1:
        return scores[0]
    left_out = [max(scores[:i] + scores[i + 1 :]) for i in range(len(scores))]
    return sum(left_out) / len(scores)


# ---- texts beside references, by sacrebleu and rouge-score


def needs(library: str) -> None:
    """Raises `MissingExtra` where `library` is not installed."""
    if find_spec(library) is None:
        raise missing_extra("eval", f"this task needs {library.replace('_', '-')}")


def bleu_counts(translation: str, reference: str) -> list[float]:
    """The counts that BLEU sums [10]: matching and all n-grams, n = 1 to 4, and both lengths."""
    from sacrebleu.metrics.bleu import BLEU

    score = BLEU(effective_order=True).sentence_score(translation, [reference])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def bleu(sums: NDArray[np.float64]) -> float:
    """BLEU of the summed counts [10]: sacrebleu's `corpus_score`, its default settings."""
    from sacrebleu.metrics.bleu import BLEU

    whole = [round(value) for value in sums]
    return float(BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9]).score)


def rouge(summary: Sequence[str], reference: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and summary-level -L F1 of two texts given as sentences, words stemmed."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    scores = scorer.score("\n".join(reference), "\n".join(summary))
    return {name: float(score.fmeasure) for name, score in scores.items()}
