"""Winograd schemas (section 3.4): which of two names a pronoun stands for.

As in Trinh & Le 2018, each candidate takes the pronoun's place and the more likely text wins. Full
scoring compares the probabilities of the whole text, partial scoring those of what follows the
candidate. A candidate is written as the sentence needs it: with 's for a possessive pronoun, its
article or pronoun small inside a sentence and capital at the beginning.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2rt.errors import BadData
from gpt2rt_evals import data
from gpt2rt_evals.metrics import Record, accuracy, paper
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask, as_they_are
from gpt2rt_evals.text import clip, token_at

POSSESSIVE = {"his", "her", "its", "their", "my", "your", "our"}
SMALL = {"A", "An", "The", "My", "Your", "His", "Her", "Its", "Our", "Their", "This", "That"}


@dataclass(frozen=True, slots=True)
class Schema:
    """The text before and after the pronoun, the two candidates, and the right one's number."""

    before: str
    after: str
    candidates: tuple[str, str]
    right: int


def read(path: Path) -> list[Schema]:
    """The schemas of an XML or JSON file. Raises `BadData`."""
    return _read_xml(path) if path.suffix.lower() == ".xml" else _read_json(path)


def _read_json(path: Path) -> list[Schema]:
    """A list of objects: `sentence` with the pronoun in brackets, two answers, the right one."""
    body = data.json_of(path)
    if not isinstance(body, list) or not body:
        raise BadData(f"{path}: not a list of schemas")
    found = []
    for number, value in enumerate(body, 1):
        where = f"{path}: schema {number}"
        item = data.checked(
            value, where, sentence=str, answer0=str, answer1=str, correct_answer=str
        )
        parts = re.fullmatch(r"([^\[]*)\[([^\[\]]+)\]([^\[]*)", item["sentence"])
        if parts is None:
            raise BadData(f"{where}: the sentence has not one pronoun in brackets")
        answers = [item["answer0"], item["answer1"]]
        if item["correct_answer"] not in answers:
            raise BadData(f"{where}: the correct answer {item['correct_answer']!r} is neither")
        before, pronoun, after = parts.group(1, 2, 3)
        right = answers.index(item["correct_answer"])
        found.append(_schema(before, pronoun, after, answers, right, where))
    return found


def _read_xml(path: Path) -> list[Schema]:
    """`WSCollection.xml`: elements `schema` with `text`, two `answer` and `correctAnswer`."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise BadData(f"{path}: line {error.position[0]}: not XML ({error})") from None
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror})") from None
    found = []
    for number, schema in enumerate(root.iter("schema"), 1):
        where = f"{path}: schema {number}"
        before, pronoun, after = (
            schema.findtext(f"text/{name}", "").strip() for name in ("txt1", "pron", "txt2")
        )
        answers = [" ".join((item.text or "").split()) for item in schema.iter("answer")]
        letter = schema.findtext("correctAnswer", "").strip()[:1]
        if not pronoun or len(answers) != 2 or letter not in ("A", "B"):
            raise BadData(f"{where}: not a pronoun, two answers and the correct one, A or B")
        gap = "" if re.match(r"[.,;:!?']", after) else " "
        found.append(
            _schema(f"{before} ", pronoun, gap + after, answers, "AB".index(letter), where)
        )
    if not found:
        raise BadData(f"{path}: no element `schema`")
    return found


def _schema(
    before: str, pronoun: str, after: str, answers: Sequence[str], right: int, where: str
) -> Schema:
    before, after = re.sub(r"\s+", " ", before), re.sub(r"\s+", " ", after.rstrip())
    after = re.sub(r"^ (?=[.,;:!?])", "", after)
    if not after:
        raise BadData(
            f"{where}: nothing follows the pronoun, so nothing tells the candidates apart"
        )
    first, second = (
        _in_place(answer.strip(), before, pronoun.strip(), after) for answer in answers
    )
    return Schema(before, after, (first, second), right)


def _in_place(candidate: str, before: str, pronoun: str, after: str) -> str:
    """The candidate in the form that the sentence needs in the pronoun's place."""
    possessive = pronoun.lower() in POSSESSIVE and re.match(r" \W?\w", after)
    if possessive:
        candidate += "'" if candidate.endswith("s") and " " in candidate else "'s"
    starts = not before.strip() or before.rstrip()[-1] in ".!?"
    word = candidate.split()[0]
    if starts:
        return candidate[0].upper() + candidate[1:]
    return candidate[0].lower() + candidate[1:] if word in SMALL else candidate


def answer(
    model: LanguageModel, examples: Sequence[Schema], first: int, settings: EvalSettings
) -> Iterator[Record]:
    passages, tails = [], []
    for schema in examples:
        for candidate in schema.candidates:
            head = schema.before + candidate
            tokens = model.encode(head + schema.after)
            passages.append(clip(model, [model.start_of_text, *tokens], 1))
            tails.append(len(tokens) - token_at(model, tokens, head))
    scores = zip(model.score(passages), tails, strict=True)
    for schema in examples:
        full, partial = [], []
        for score, tail in (next(scores), next(scores)):
            full.append(float(score.logprobs.sum(dtype=np.float64)))
            partial.append(float(score.logprobs[-tail:].sum(dtype=np.float64)))
        other = 1 - schema.right
        yield {
            "examples": 1,
            "full": int(full[schema.right] > full[other]),
            "partial": int(partial[schema.right] > partial[other]),
        }


TASKS = (
    EvalTask(
        "winograd",
        "Winograd schemas",
        ("WSC_associative_label.json", "WSCollection.xml"),
        "WSCollection.xml; or JSON: [{sentence: .. [he] .., answer0, answer1, correct_answer}]",
        "schema",
        (
            accuracy("partial", "accuracy %, partial scoring", paper(70.70)),
            accuracy("full", "accuracy %, full scoring"),
        ),
        read,
        as_they_are,
        answer,
        chunk=64,
    ),
)
