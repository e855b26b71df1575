"""CoQA (section 3.5): questions in conversation about a text, answered greedily.

The prompt is the text, the conversation so far with the data set's own answers, and the question,
as `Q:` and `A:` lines; the answer is the line that the model writes. Of a prompt beyond the context
the beginning of the text is left out, never the conversation's end. F1 is CoQA's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2rt.errors import BadData
from gpt2rt_evals import data
from gpt2rt_evals.metrics import Record, accuracy, exact_match, f1_of_many, paper
from gpt2rt_evals.model import Decoding, LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask, as_they_are
from gpt2rt_evals.text import last_tokens, room

LENGTH = 32  # tokens of an answer at most


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and its human answers."""

    prompt: str
    references: tuple[str, ...]


def read(path: Path) -> list[Turn]:
    """The turns of all conversations in `coqa-dev-v1.0.json`."""
    body = data.checked(data.json_of(path), str(path), data=list)
    return [turn for i, item in enumerate(body["data"], 1) for turn in _turns(item, path, i)]


def _turns(item: Any, path: Path, number: int) -> Iterator[Turn]:
    where = f"{path}: story {number}"
    story = data.checked(item, where, story=str, questions=list, answers=list)
    more = story.get("additional_answers", {})
    more = list(data.checked(more, f"{where}: additional_answers").values())
    columns = [story["answers"], *more]
    prompt = story["story"].strip() + "\n"
    for turn, question in enumerate(story["questions"]):
        place = f"{where}: turn {turn + 1}"
        asked = data.checked(question, place, input_text=str)["input_text"]
        if any(not isinstance(column, list) or len(column) <= turn for column in columns):
            raise BadData(f"{place}: an answer is missing")
        answers = [
            data.checked(column[turn], place, input_text=str)["input_text"] for column in columns
        ]
        prompt += f"\nQ: {asked.strip()}\nA:"
        yield Turn(prompt, tuple(answers))
        prompt += f" {answers[0].strip()}"


def answer(
    model: LanguageModel, examples: Sequence[Turn], first: int, settings: EvalSettings
) -> Iterator[Record]:
    length, count = room(model, LENGTH)
    prompts = [last_tokens(model, turn.prompt, count) for turn in examples]
    for turn, text in zip(
        examples, model.complete(prompts, Decoding(length, ("\n",))), strict=True
    ):
        written = text.strip()
        yield {
            "examples": 1,
            "answer": written,
            "f1": f1_of_many(written, turn.references),
            "exact": exact_match(written, turn.references),
        }


TASKS = (
    EvalTask(
        "coqa",
        "CoQA",
        ("coqa-dev-v1.0.json",),
        "coqa-dev-v1.0.json: {data: [{story, questions, answers, additional_answers}]}",
        "question",
        (accuracy("f1", "F1 %", paper(55)), accuracy("exact", "exact match %")),
        read,
        as_they_are,
        answer,
    ),
)
