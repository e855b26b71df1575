"""Natural Questions without a text to look it up in (section 3.8): few-shot, greedy.

Questions are shown as in the paper's table 5, `Who took the first steps on the moon in 1969?`; the
answer is the line that the model writes, right if it is one of the references, compared as SQuAD
compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.errors import BadData
from gpt2rt_evals import data
from gpt2rt_evals.metrics import Record, accuracy, exact_match, paper
from gpt2rt_evals.model import Decoding, LanguageModel
from gpt2rt_evals.shots import Shots
from gpt2rt_evals.task import EvalSettings, EvalTask
from gpt2rt_evals.text import room

LENGTH = 24
SHOTS = 10


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is shown, and its right answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its number in the data set, and the solved examples for its prompt."""

    number: int
    question: Question
    shots: Shots


def read(path: Path) -> list[Question]:
    """The questions of `NQ-open.dev.jsonl`. Raises `BadData`."""
    found = []
    for where, item in data.json_lines(path, question=str, answer=list):
        answers = item["answer"]
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise BadData(f"{where}: 'answer' is not a list of one or more strings")
        asked = item["question"].strip().removesuffix("?").rstrip()
        if not asked:
            raise BadData(f"{where}: the question is empty")
        found.append(Question(f"Q: {asked[0].upper()}{asked[1:]}?\nA:", tuple(answers)))
    return found


def examples(
    questions: Sequence[Question], model: LanguageModel, settings: EvalSettings
) -> list[Asked]:
    count = SHOTS if settings.shots is None else settings.shots
    solved = [f"{question.text} {question.answers[0]}\n\n" for question in questions]
    shots = Shots(solved, count, settings.seed)
    return [Asked(i, question, shots) for i, question in enumerate(questions)]


def answer(
    model: LanguageModel, examples: Sequence[Asked], first: int, settings: EvalSettings
) -> Iterator[Record]:
    length, count = room(model, LENGTH)
    prompts = [a.shots.prompt(model, a.number, a.question.text, count) for a in examples]
    for asked, text in zip(
        examples, model.complete(prompts, Decoding(length, ("\n",))), strict=True
    ):
        written = text.strip()
        yield {
            "examples": 1,
            "answer": written,
            "exact": exact_match(written, asked.question.answers),
        }


TASKS = (
    EvalTask(
        "nq",
        "Natural Questions",
        ("NQ-open.dev.jsonl", "*nq*dev*.jsonl"),
        'NQ-open.dev.jsonl: {"question": text, "answer": [text, ...]} a line',
        "question",
        (accuracy("exact", "exact match %", paper(4.1)),),
        read,
        examples,
        answer,
    ),
)
