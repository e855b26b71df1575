"""What a task finds on a model whose probabilities are known."""

from __future__ import annotations

from pathlib import Path

from gpt2rt_evals.metrics import Record, measure
from gpt2rt_evals.registry import find
from gpt2rt_evals.task import EvalSettings
from oracle import Oracle


def records_of(
    name: str, path: Path, model: Oracle, settings: EvalSettings = EvalSettings()
) -> list[Record]:
    task = find(name)
    examples = task.examples(task.read(path), model, settings)
    return list(task.answer(model, examples, 0, settings))


def figures(name: str, records: list[Record]) -> dict[str, float]:
    return {metric.name: measure(metric, records).value for metric in find(name).metrics}
