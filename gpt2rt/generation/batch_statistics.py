"""What a batch counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BatchTotals:
    """Counts since a model was loaded, as in `BatchStatistics`; who makes steps adds to them."""

    steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    failures: int = 0
    model_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Counts of a batch: now, and since the model was loaded.

    Attributes:
        running: texts in progress, with those whose prompts are read.
        queued: texts that wait for a slot.
        slots: the most texts that can run now.
        steps: steps made.
        tokens: new tokens.
        prompt_tokens: tokens of prompts that were read, without those from the prefix cache.
        failures: steps that failed.
        model_seconds: CPU time of the threads that made steps, in steps and draws.
    """

    running: int
    queued: int
    slots: int
    steps: int
    tokens: int
    prompt_tokens: int
    failures: int
    model_seconds: float
