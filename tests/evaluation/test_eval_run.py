"""A run that is stopped goes on where it was, and ends as if it had never been stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2rt.errors import InvalidSetting
from gpt2rt_evals.metrics import Record
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.registry import find
from gpt2rt_evals.run import EvalRun, TaskResult
from gpt2rt_evals.task import EvalSettings
from oracle import Oracle
from small_files import PASSAGES, WORDS, written


def model() -> Oracle:
    return Oracle(lambda text: {" cat": 0.5, f" {WORDS[len(text) % 5]}": 0.2})


@pytest.fixture
def run(tmp_path: Path) -> EvalRun:
    task = replace(find("lambada"), chunk=4)
    data = task.read(written(tmp_path / "lambada_test.jsonl", PASSAGES))
    return EvalRun(task, data, "model 1", EvalSettings())


def same(a: TaskResult, b: TaskResult) -> bool:
    return (a.records, a.figures, a.tokens) == (b.records, b.figures, b.tokens)


class Stopped(Exception):
    pass


def stopping(run: EvalRun, after: int) -> EvalRun:
    """The run, but it is stopped in the chunk after `after` chunks."""
    left = [after]

    def answer(
        model: LanguageModel, examples: Sequence[Any], first: int, settings: EvalSettings
    ) -> Iterator[Record]:
        for record in run.task.answer(model, examples, first, settings):
            yield record
            if not left[0]:
                raise Stopped
        left[0] -= 1

    return replace(run, task=replace(run.task, answer=answer))


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_stopped_run_goes_on(run: EvalRun, tmp_path: Path, after: int) -> None:
    whole = run.finish(model(), tmp_path / "whole")
    with pytest.raises(Stopped):
        stopping(run, after).finish(model(), tmp_path / "parts")
    second, told = model(), list[tuple[int, int]]()
    result = run.finish(second, tmp_path / "parts", lambda *at: told.append(at))
    assert same(result, whole)
    assert len(second.passages) == 23 - 4 * after
    assert told[0] == (4 * after, 23)
    assert told[-1] == (23, 23)


def test_a_finished_run_asks_nothing_of_the_model(run: EvalRun, tmp_path: Path) -> None:
    whole = run.finish(model(), tmp_path)
    again = model()
    assert same(run.finish(again, tmp_path), whole)
    assert not again.passages


def cut_off(data: bytes) -> bytes:
    return data[:-7]


def damaged(data: bytes) -> bytes:
    lines = data.split(b"\n")
    lines[2] = lines[2][:30] + b"\xff\x00" + lines[2][32:]
    return b"\n".join(lines)


def strange(data: bytes) -> bytes:
    extra = b'\n\n[]\n{"chunk": 99, "records": [], "seconds": 0, "tokens": 0}\n{"chunk": "x"}\n'
    return data[: data.rindex(b'{"chunk"')] + extra


def short(data: bytes) -> bytes:
    """A chunk with fewer records than it has examples."""
    head, last = data[: data.rindex(b'{"chunk"')], json.loads(data[data.rindex(b'{"chunk"') :])
    last["records"].pop()
    return head + json.dumps(last).encode() + b"\n"


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut_off, damaged, strange, short])
def test_lines_that_are_not_whole_are_done_again(
    run: EvalRun, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    whole = run.finish(model(), tmp_path)
    path = tmp_path / run.file_name()
    path.write_bytes(harm(path.read_bytes()))
    second = model()
    assert same(run.finish(second, tmp_path), whole)
    assert 3 <= len(second.passages) <= 4
    third = model()
    assert same(run.finish(third, tmp_path), whole)
    assert not third.passages


def test_records_are_of_one_model_one_task_one_text_and_one_setting(run: EvalRun) -> None:
    others = [
        replace(run, model_id="model 2"),
        replace(run, task=find("lambada-harness")),
        replace(run, data=run.data[1:]),
        replace(run, settings=EvalSettings(limit=3)),
        replace(run, settings=EvalSettings(seed=1)),
    ]
    assert len({other.file_name() for other in (run, *others)}) == 6
    assert replace(run, settings=EvalSettings()).file_name() == run.file_name()


def test_the_limit_takes_the_first(run: EvalRun, tmp_path: Path) -> None:
    whole = run.finish(model(), tmp_path)
    few = replace(run, settings=EvalSettings(limit=6)).finish(model(), tmp_path)
    assert few.records == whole.records[:6]


@pytest.mark.parametrize("field", ["limit", "stride"])
def test_settings_that_mean_nothing(field: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{field} must be 1 or more, not 0"):
        EvalSettings(**{field: 0})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="seed"):
        EvalSettings(seed=-1)
