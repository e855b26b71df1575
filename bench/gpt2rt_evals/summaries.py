"""CNN/Daily Mail (section 3.6): an article, `TL;DR:`, and 100 tokens drawn from the 2 most likely.

The first three sentences of those tokens are the summary. Of an article beyond the context the end
is left out, since news tell the most important first. ROUGE as Lin 2004 has it, with stemming;
ROUGE-L by sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gpt2rt.errors import BadData
from gpt2rt.sampling.params import SamplingParams
from gpt2rt_evals import data
from gpt2rt_evals.metrics import Record, accuracy, needs, paper, rouge
from gpt2rt_evals.model import Decoding, LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask, as_they_are
from gpt2rt_evals.text import first_tokens, room

HINT = "\nTL;DR:"
LENGTH = 100
TOP_K = 2
SENTENCES = 3
HIGHLIGHT = "@highlight"
END = re.compile(r"(?<=[.!?])(?:['\"’”)\]]*)\s+")


@dataclass(frozen=True, slots=True)
class News:
    """An article and its summary, sentence by sentence."""

    article: str
    highlights: tuple[str, ...]


def read(path: Path) -> list[News]:
    """JSON lines, or one of the data set's `.story` files, then all those of its folder.

    Raises `BadData`.
    """
    if path.suffix == ".story":
        return [_story(story) for story in sorted(path.parent.glob("*.story"))]
    found = []
    for where, item in data.json_lines(path, article=str, highlights=str):
        if not item["article"].strip() or not item["highlights"].strip():
            raise BadData(f"{where}: the article or its highlights are empty")
        lines = [s for line in item["highlights"].splitlines() for s in sentences(line)]
        found.append(News(item["article"].strip(), tuple(lines)))
    return found


def _story(path: Path) -> News:
    """Paragraphs, then highlights, each after a line `@highlight`."""
    article, *highlights = data.text_of(path).split(HIGHLIGHT)
    paragraphs = [line.strip() for line in article.splitlines() if line.strip()]
    lines = tuple(" ".join(text.split()) for text in highlights if text.strip())
    if not paragraphs or not lines:
        raise BadData(f"{path}: not an article and, after lines `{HIGHLIGHT}`, its summary")
    return News("\n".join(paragraphs), lines)


def sentences(text: str) -> list[str]:
    """A text in sentences: each ends with . ! or ? and a space or the text's end."""
    cuts = [0, *(match.end() for match in END.finditer(text)), len(text)]
    pieces = (text[a:b].strip() for a, b in pairwise(cuts))
    return [piece for piece in pieces if piece]


def answer(
    model: LanguageModel, examples: Sequence[News], first: int, settings: EvalSettings
) -> Iterator[Record]:
    length, count = room(model, LENGTH)
    count = max(1, count - len(model.encode(HINT)))
    prompts = [first_tokens(model, news.article, count) + HINT for news in examples]
    # Sample i of a call is drawn with the numbers of (seed, i), so each chunk has a seed.
    decoding = Decoding(length, params=SamplingParams(top_k=TOP_K, seed=settings.seed + first))
    for news, text in zip(examples, model.complete(prompts, decoding), strict=True):
        summary = sentences(text)[:SENTENCES]
        yield {"examples": 1, "summary": summary, **rouge(summary, news.highlights)}


TASKS = (
    EvalTask(
        "cnndm",
        "CNN/Daily Mail",
        ("*cnndm*.jsonl", "*cnn*.jsonl", "*.story"),
        '{"article", "highlights"} a line; or a folder of .story files',
        "article",
        (
            accuracy("rouge1", "ROUGE-1", paper(29.34)),
            accuracy("rouge2", "ROUGE-2", paper(8.27)),
            accuracy("rougeLsum", "ROUGE-L", paper(26.58)),
        ),
        read,
        as_they_are,
        answer,
        check=lambda: needs("rouge_score"),
    ),
)
