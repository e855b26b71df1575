"""The measurement: every case in every round, round after round, so that noise hits all alike.

Each configuration is a process of its own (`gpt2rt_bench.subject`), so load time and memory are
its own; while one is measured the others wait for their input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from gpt2rt_bench.cases import Case, Configuration
from gpt2rt_bench.protocol import Answer
from gpt2rt_bench.subject import Subject

PAUSE = 0.05  # seconds; long enough for the threads of the subject before to stop spinning

Start = Callable[[Configuration], Subject]


@dataclass(slots=True)
class CaseResult:
    """One case: the process that ran it, and its answer in each round."""

    case: Case
    subject: Subject
    answers: list[Answer] = field(default_factory=list)


def measure(
    cases: Sequence[Case],
    start: Start,
    n_vocab: Mapping[str, int],
    rounds: int,
    *,
    every_round: Callable[[Sequence[CaseResult]], None] = lambda results: None,
    advance: Callable[[str], None] = lambda what: None,
) -> list[CaseResult]:
    """All cases, interleaved over `rounds` rounds after one that is not counted.

    Every subject is started, one after the other, before any is asked. `n_vocab` is each model's;
    `every_round` is called with the results at the beginning of every round, `advance` with the
    title of each step.
    Raises `SubjectFailed`.
    """
    with ExitStack() as open_subjects:
        subjects: dict[Configuration, Subject] = {}
        for configuration in dict.fromkeys(case.configuration for case in cases):
            advance(f"Load {configuration.name}")
            subjects[configuration] = open_subjects.enter_context(start(configuration))
        results = [CaseResult(case, subjects[case.configuration]) for case in cases]
        for number in range(rounds + 1):
            every_round(results)
            for result in results:
                case = result.case
                advance(f"Round {number} of {rounds}" if number else "Warm up")
                time.sleep(PAUSE)
                prompts = case.prompts(n_vocab[case.configuration.model])
                answer = result.subject.ask(prompts, case.steps)
                if number:
                    result.answers.append(answer)
    return results
