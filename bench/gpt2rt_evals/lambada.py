"""LAMBADA (section 3.3): predict the last word of a passage.

Perplexity and accuracy are of the last word: of all its tokens, each of which must be the most
likely one for the word to count as found. The paper's better accuracy adds a stop-word filter,
since the model does not know that the word ends the text: words such as "the" are no candidates for
it. Neither OpenAI's list of stop words nor its code is public; here a first token that spells a
stop word is skipped among the `CANDIDATES` most likely, and the rest of the word must follow
greedily. Figures of the last token alone, an easier task where a word has several, are given
besides.

OpenAI put a newline before each passage and read it from there; so does this task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2rt.errors import BadData
from gpt2rt_evals import data
from gpt2rt_evals.detokenise import TREEBANK, detokenise
from gpt2rt_evals.metrics import Metric, Record, accuracy, paper, perplexity
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask, as_they_are
from gpt2rt_evals.text import clip, token_at

CANDIDATES = 128
LISTED = """
a an the this that these those
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself
it its itself we us our ours ourselves they them their theirs themselves
who whom whose which what when where why how
am is are was were be been being have has had having do does did doing
will would shall should can could may might must ought
and or but nor so yet if because as until while although though unless since than whether
of at by for with about against between into through during before after above below to from
up down in out on off over under within without upon among toward towards
again further then once here there all any both each few more most other some such no not only
own same too very just now ever never also even still s t d ll m re ve don didn doesn
"""
STOP_WORDS = frozenset(LISTED.split())


@dataclass(frozen=True, slots=True)
class Gap:
    """A passage: the text to read, and its last word with the space before it, to predict."""

    before: str
    word: str


def read(path: Path) -> list[Gap]:
    """OpenAI's `lambada_test.jsonl`, or the data set's own tokenised `.txt`."""
    return [_last_word("\n" + passage.strip(), where) for where, passage in passages(path)]


def passages(path: Path) -> Iterator[tuple[str, str]]:
    """`file: line n` and the passage of each example."""
    if path.suffix != ".txt":
        for where, item in data.json_lines(path, text=str):
            yield where, item["text"]
        return
    for number, line in enumerate(data.lines_of(path), 1):
        yield f"{path}: line {number}", detokenise(line.strip(), TREEBANK)


def _last_word(passage: str, where: str) -> Gap:
    words = passage.split()
    if len(words) < 2:
        raise BadData(f"{where}: {passage.strip()!r:.40} is not a passage of several words")
    start = passage.rindex(words[-1])
    start -= passage[start - 1] == " "
    return Gap(passage[:start], passage[start:])


def answer(
    model: LanguageModel, examples: Sequence[Gap], first: int, settings: EvalSettings
) -> Iterator[Record]:
    found = []
    for gap in examples:
        tokens = model.encode(gap.before + gap.word)
        found.append(clip(model, tokens, token_at(model, tokens, gap.before)))
    is_stop = _stop_words(model)
    for passage, score in zip(found, model.score(found, top=CANDIDATES), strict=True):
        target = passage.tokens[passage.first]
        best = next((int(i) for i in score.top_ids[0] if not is_stop(int(i))), None)
        greedy = score.ranks == 0
        yield {
            "examples": 1,
            "nats": -float(score.logprobs.sum(dtype=np.float64)),
            "found": int(greedy.all()),
            "filtered": int(best == target and bool(greedy[1:].all())),
            "last_nats": -float(score.logprobs[-1]),
            "last_found": int(greedy[-1]),
        }


def _stop_words(model: LanguageModel) -> Callable[[int], bool]:
    known: dict[int, bool] = {}

    def is_stop(token: int) -> bool:
        if token not in known:
            text = model.decode_bytes([token]).decode("utf-8", "replace")
            known[token] = text.strip().lower() in STOP_WORDS
        return known[token]

    return is_stop


# ---- as lm-evaluation-harness does it (task lambada_openai)


def read_harness(path: Path) -> list[Gap]:
    """The passages without any change, cut at their last space. Raises `BadData`."""
    found = []
    for where, passage in passages(path):
        before, space, word = passage.rpartition(" ")
        if not before:
            raise BadData(f"{where}: {passage!r:.40} is not a passage of several words")
        found.append(Gap(before, space + word))
    return found


def answer_harness(
    model: LanguageModel, examples: Sequence[Gap], first: int, settings: EvalSettings
) -> Iterator[Record]:
    found = []
    for gap in examples:
        tokens = model.encode(gap.before + gap.word)
        found.append(clip(model, tokens, len(model.encode(gap.before))))
    for score in model.score(found):
        yield {
            "examples": 1,
            "nats": -float(score.logprobs.sum(dtype=np.float64)),
            "found": int((score.ranks == 0).all()),
        }


FILES = ("lambada_test.jsonl", "lambada_test*.jsonl", "lambada_test*.txt")
FORM = 'lambada_test.jsonl: {"text": passage} a line; or the data set\'s tokenised .txt'
TASKS = (
    EvalTask(
        "lambada",
        "LAMBADA",
        FILES,
        FORM,
        "passage",
        (
            Metric(
                "perplexity of the last word",
                ("nats", "examples"),
                perplexity,
                paper(35.13, 15.60, 10.87, 8.63),
            ),
            accuracy("filtered", "accuracy %, stop-word filter", paper(45.99, 55.48, 60.12, 63.24)),
            accuracy("found", "accuracy %", paper(52.66)),
            Metric("perplexity of the last token", ("last_nats", "examples"), perplexity),
            accuracy("last_found", "accuracy %, last token"),
        ),
        read,
        as_they_are,
        answer,
        chunk=64,
    ),
    EvalTask(
        "lambada-harness",
        "LAMBADA, lm-evaluation-harness",
        FILES,
        FORM,
        "passage",
        (
            Metric("perplexity of the last word", ("nats", "examples"), perplexity),
            accuracy("found", "accuracy %"),
        ),
        read_harness,
        as_they_are,
        answer_harness,
        chunk=64,
    ),
)
