"""Children's Book Test (section 3.2): which of ten words was left out of the 21st sentence.

Each word is put into the gap, and the most likely of "word and rest of the sentence", read after
the twenty sentences and the beginning of the 21st, is the answer. The paper reports the validation
set, since a book of the test set is in GPT-2's training text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2rt.errors import BadData
from gpt2rt_evals import data
from gpt2rt_evals.detokenise import TREEBANK, detokenise
from gpt2rt_evals.metrics import Record, accuracy, paper
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask, as_they_are
from gpt2rt_evals.text import clip, token_at

SENTENCES = 20
GAP = "XXXXX"


@dataclass(frozen=True, slots=True)
class ClozeQuestion:
    """The text before and after the gap, the words to choose from, the right one's number."""

    before: str
    after: str
    choices: tuple[str, ...]
    right: int


def read(path: Path) -> list[ClozeQuestion]:
    """Blocks of 21 numbered lines, the last `21 question<TAB>answer<TAB><TAB>a|b|...|j`.

    Raises `BadData`.
    """
    found: list[ClozeQuestion] = []
    story: list[str] = []
    for number, line in enumerate(data.lines_of(path), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        expected = len(story) + 1
        label, _, sentence = line.partition(" ")
        if label != str(expected):
            raise BadData(f"{where}: begins with {label!r:.20}, not {expected}")
        if expected <= SENTENCES:
            story.append(detokenise(sentence.strip(), TREEBANK))
        else:
            found.append(_question(sentence, story, where))
            story = []
    if story:
        raise BadData(f"{path}: the last story has {len(story)} lines, not {SENTENCES + 1}")
    return found


def _question(line: str, story: Sequence[str], where: str) -> ClozeQuestion:
    columns = [column for column in line.split("\t") if column.strip()]
    if len(columns) != 3:
        raise BadData(f"{where}: not `question<TAB>answer<TAB><TAB>choice|choice|...`")
    sentence, answer, listed = (column.strip() for column in columns)
    choices = tuple(choice for choice in listed.split("|") if choice)
    if sentence.split().count(GAP) != 1:
        raise BadData(f"{where}: the question has not one {GAP}")
    if answer not in choices:
        raise BadData(f"{where}: the answer {answer!r:.30} is not among the choices")
    before, _, after = " ".join([*story, detokenise(sentence, TREEBANK)]).rpartition(GAP)
    return ClozeQuestion(before, after, choices, choices.index(answer))


def answer(
    model: LanguageModel, examples: Sequence[ClozeQuestion], first: int, settings: EvalSettings
) -> Iterator[Record]:
    passages = []
    for question in examples:
        # The space before a word belongs to its first token.
        stem = question.before.removesuffix(" ")
        for choice in question.choices:
            tokens = model.encode(question.before + choice + question.after)
            passages.append(clip(model, tokens, token_at(model, tokens, stem)))
    scores = model.score(passages)
    for question in examples:
        nats = [float(next(scores).logprobs.sum(dtype=np.float64)) for _ in question.choices]
        chosen = int(np.argmax(nats))
        yield {"examples": 1, "right": int(chosen == question.right), "chosen": chosen}


def _task(kind: str, name: str, title: str, figures: dict[str, float]) -> EvalTask:
    files = (f"cbtest_{kind}_valid_2000ex.txt", f"cbtest_{kind}_test_2500ex.txt")
    form = f"{files[0]}: 20 numbered lines and `21 question<TAB>answer<TAB><TAB>a|b|...`"
    metrics = (accuracy("right", "accuracy %", figures),)
    return EvalTask(
        name, title, files, form, "question", metrics, read, as_they_are, answer, chunk=4
    )


TASKS = (
    _task("CN", "cbt-cn", "Children's Book, common nouns", paper(87.65, 92.35, 93.45, 93.30)),
    _task("NE", "cbt-ne", "Children's Book, named entities", paper(83.4, 87.1, 88.0, 89.05)),
)
