"""WikiText-2 as lm-evaluation-harness does it (its task wikitext, version 2), to compare figures.

The text is cut into articles, each read from `<|endoftext|>` on, and de-tokenised by the harness's
rules, which cannot be undone. Words are counted in the article as it was: pieces between runs of
whitespace, an empty piece at either end included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gpt2rt_evals import data
from gpt2rt_evals.lm import WIKI_FILES, WIKI_FORM, LmDocument, Window, answer, titled, windows_of
from gpt2rt_evals.metrics import Metric, Record, perplexity
from gpt2rt_evals.model import LanguageModel
from gpt2rt_evals.task import EvalSettings, EvalTask

# In this order, on the whole article; a pair of brackets or quotes loses the spaces inside it.
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"s '", "s'"),
        (r"/' [0-9]/", "/'[0-9]/"),
        *((f" @{sign}@ ", sign) for sign in ("-", ",")),
        (r" @\.@ ", "."),
        *((f" {re.escape(sign)} ", f"{sign} ") for sign in ":;.!?,"),
        *(
            (rf"{re.escape(a)}\s*([^{re.escape(b)}]*?)\s*{re.escape(b)}", rf"{a}\1{b}")
            for a, b in ("()", "[]", "{}", '""', "''")
        ),
        *((" ".join("=" * n), "=" * n) for n in (4, 3, 2)),
        (" ° ", "°"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    )
)
TITLE = re.compile(r" = [^=](?:.*[^=])? = ")


def natural(article: str) -> str:
    """The article as the harness has it read."""
    for pattern, replacement in RULES:
        article = pattern.sub(replacement, article)
    return article


def read(path: Path) -> list[str]:
    """The articles: each begins with a line ` = Title = `."""
    titled(path)
    articles: list[list[str]] = [[]]
    for line in data.text_of(path).split("\n"):
        if TITLE.fullmatch(line) and "".join(articles[-1]).strip():
            articles.append([])
        articles[-1].append(line)
    return ["\n".join(lines) for lines in articles]


def examples(
    articles: Sequence[str], model: LanguageModel, settings: EvalSettings
) -> list[list[Window]]:
    """The windows of each article, which is one example."""
    found = []
    for article in articles:
        words = len(re.split(r"\s+", article))
        found.append(windows_of([LmDocument((natural(article),), (words,))], model, settings))
    return found


def answer_articles(
    model: LanguageModel, examples: Sequence[list[Window]], first: int, settings: EvalSettings
) -> list[Record]:
    found: list[Record] = []
    for windows in examples:
        parts = list(answer(model, windows, 0, settings))
        found.append({name: sum(part[name] for part in parts) for name in ("nats", "units")})
    return found


TASKS = (
    EvalTask(
        "wikitext2-harness",
        "WikiText-2, lm-evaluation-harness",
        ("*wikitext*2*/wiki.test.raw", *WIKI_FILES[:1]),
        WIKI_FORM,
        "article",
        (Metric("perplexity a word", ("nats", "units"), perplexity),),
        read,
        examples,
        answer_articles,
        chunk=1,
    ),
)
