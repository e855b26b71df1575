"""The order of a benchmark's work, and the processes that do it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psutil")
pytest.importorskip("archspec")
pytest.importorskip("matplotlib")

from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.errors import InvalidSetting
from gpt2rt_bench import worker
from gpt2rt_bench.cases import Case, Configuration, configurations, matrix
from gpt2rt_bench.latency import measure
from gpt2rt_bench.protocol import Answer
from gpt2rt_bench.subject import Subject, SubjectFailed

# ---- the order of work


class Recorder:
    """Stands for a subject: notes what it is asked."""

    def __init__(self, configuration: Configuration, log: list[str]) -> None:
        self.name, self._log = configuration.model, log
        self._log.append(f"start {self.name}")

    def ask(self, prompts: list[list[int]], steps: int) -> Answer:
        self._log.append(f"{self.name} {len(prompts)}x{len(prompts[0])}")
        return Answer(1.0, [1.0] * (steps - 1), [[0] * steps] * len(prompts))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.append(f"close {self.name}")


def test_every_round_does_every_case_and_the_first_does_not_count() -> None:
    subjects = configurations(["a", "b"], ["cpu"], [1])
    cases = matrix(subjects, [3, 2, 3], [1], 2)
    log: list[str] = []
    start: Any = lambda configuration: Recorder(configuration, log)  # noqa: E731
    results = measure(
        cases, start, {"a": 9, "b": 9}, 2, every_round=lambda results: log.append("round")
    )
    one = ["round", "a 1x2", "b 1x2", "a 1x3", "b 1x3"]
    assert log == ["start a", "start b", *one * 3, "close b", "close a"]
    assert [len(found.answers) for found in results] == [2] * 4


def test_prompts_are_the_same_for_everyone() -> None:
    one, other = (Case(Configuration(m, "cpu", 1), 5, 2, 2) for m in "ab")
    assert one.prompts(300) == other.prompts(300)
    assert np.shape(one.prompts(300)) == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(([0], [1], 2), "prompt"), (([1], [-1], 2), "batch"), (([1], [1], 1), "steps")],
)
def test_numbers_that_mean_nothing(arguments: tuple[Any, ...], wrong: str) -> None:
    with pytest.raises(InvalidSetting, match=wrong):
        matrix(configurations(["a"], ["cpu"], [1]), *arguments)


# ---- workers


def test_the_worker_says_what_the_model_says(tiny_models: dict[str, GPT2]) -> None:
    model = tiny_models["int8"]
    configuration = Configuration("tiny", "cpu", 1)
    prompts = ["one day", "in the end"]
    tokens = [list(model.prompt_tokens(prompt)) for prompt in prompts]
    with Subject("tiny", worker.command(model.bundle.directory, configuration)) as subject:
        answer = subject.ask(tokens, 6)
        again = subject.ask(tokens, 6)
    stopping = Stopping(6, end_of_text=False)
    for prompt, found in zip(prompts, answer.tokens, strict=True):
        wanted = model.generate(prompt, SamplingParams(temperature=0), stopping)
        assert tuple(found) == wanted.tokens
    assert again.tokens == answer.tokens
    assert len(answer.step_ms) == 5
    assert answer.shares is not None
    assert set(answer.shares) == {"session", "sampling", "tokenising"}
    parts = answer.shares["session"] + answer.shares["sampling"]
    assert 0 < parts <= answer.prefill_ms + sum(answer.step_ms)
    assert subject.ready.provider == "cpu"
    assert subject.ready.precision == "int8"
    assert 0 < subject.ready.load_ms < subject.start_ms


WORKER = """
import os, sys
from gpt2rt_bench.protocol import Answer, Ready, serve
def load():
    print("a library greets")
    if "broken" in sys.argv:
        raise ValueError("no such weights\\nand more")
    def respond(prompts, steps):
        if "dies" in sys.argv:
            print("out of luck", file=sys.stderr)
            os._exit(3)
        return Answer(1.0, [2.0] * (steps - 1), prompts)
    return Ready("cpu", "fp32", {}), respond
serve(load)
"""


def own(*arguments: str) -> list[str]:
    return [sys.executable, "-c", WORKER, *arguments]


def test_what_a_library_prints_is_no_answer() -> None:
    with Subject("s", own()) as subject:
        assert subject.ask([[7]], 3).step_ms == [2.0, 2.0]
        assert subject.ask([[8]], 2).tokens == [[8]]
        assert (subject.ask([[8]], 2).peak_bytes or 1) > 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (own("broken"), "^s: ValueError: no such weights$"),
        (own("dies"), "^s: the worker ended with exit code 3: out of luck$"),
        (["/nonesuch/python"], "^s: /nonesuch/python: "),
    ],
)
def test_a_worker_that_dies_is_told_by_name(command: list[str], said: str) -> None:
    with pytest.raises(SubjectFailed, match=said), Subject("s", command) as subject:
        subject.ask([[1]], 2)
