"""Results of a benchmark whose times are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gpt2rt_bench.cases import Case, Configuration
from gpt2rt_bench.latency import CaseResult
from gpt2rt_bench.protocol import Answer, Ready


def result(
    steps: list[list[float]], library: str = "gpt2rt", model: str = "m", **size: int
) -> CaseResult:
    case = Case(Configuration(model, "cpu", 2, library), size.get("prompt", 4), 2, 3)
    ready = Ready("cpu", "fp32", {"lib": "1"}, ["a note"], load_ms=5.0)
    subject: Any = SimpleNamespace(ready=ready, start_ms=9.0)
    answers = [
        Answer(10.0 * i, step, [[1, 2, 3]] * 2, {"session": 3.0, "sampling": 1.0}, 10**6 + i)
        for i, step in enumerate(steps, 1)
    ]
    return CaseResult(case, subject, answers)
