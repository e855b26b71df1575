"""All tasks by name."""

from __future__ import annotations

import difflib

from gpt2rt.errors import InvalidSetting
from gpt2rt_evals import cbt, coqa, lambada, lm, questions, summaries, translation, winograd
from gpt2rt_evals.harness_wikitext import TASKS as HARNESS_WIKITEXT
from gpt2rt_evals.task import EvalTask

TASKS: dict[str, EvalTask] = {
    task.name: task
    for task in (
        *lambada.TASKS,
        *lm.TASKS,
        *HARNESS_WIKITEXT,
        *cbt.TASKS,
        *winograd.TASKS,
        *coqa.TASKS,
        *summaries.TASKS,
        *translation.TASKS,
        *questions.TASKS,
    )
}


def find(name: str) -> EvalTask:
    """The task of that name. Raises `InvalidSetting` with the nearest name."""
    task = TASKS.get(name.lower())
    if task is None:
        close = difflib.get_close_matches(name.lower(), TASKS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InvalidSetting(f"unknown task {name!r}: there are {', '.join(TASKS)}{hint}")
    return task
