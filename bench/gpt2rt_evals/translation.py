"""WMT14 French and English (section 3.7): after pairs `english = french`, greedily.

The translation is the first line that the model writes, up to its first sentence's end where the
source is one sentence; BLEU by sacrebleu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.errors import BadData
from gpt2rt_evals import data
from gpt2rt_evals.metrics import Metric, Record, bleu, bleu_counts, needs, paper
from gpt2rt_evals.model import Decoding, LanguageModel
from gpt2rt_evals.shots import Shots
from gpt2rt_evals.summaries import sentences
from gpt2rt_evals.task import EvalSettings, EvalTask
from gpt2rt_evals.text import room

LENGTH = 100
SHOTS = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of the data set, its number, and the solved examples for its prompt."""

    number: int
    source: str
    reference: str
    shots: Shots


def reader(source: str, target: str) -> Callable[[Path], list[tuple[str, str]]]:
    """A function that reads `name.en` and `name.fr`, given either; line n translates line n.

    It raises `BadData`.
    """

    def read(path: Path) -> list[tuple[str, str]]:
        one, other = path.with_suffix(f".{source}"), path.with_suffix(f".{target}")
        sources, targets = data.lines_of(one), data.lines_of(other)
        if len(sources) != len(targets):
            raise BadData(
                f"{other}: {len(targets)} lines, but {one} has {len(sources)}; line n of one has "
                "to translate line n of the other"
            )
        for number, pair in enumerate(zip(sources, targets, strict=True), 1):
            if not all(text.strip() for text in pair):
                raise BadData(f"{other}: line {number}: it or its translation is empty")
        return [(a.strip(), b.strip()) for a, b in zip(sources, targets, strict=True)]

    return read


def examples(
    pairs: Sequence[tuple[str, str]], model: LanguageModel, settings: EvalSettings
) -> list[Pair]:
    count = SHOTS if settings.shots is None else settings.shots
    shots = Shots([f"{a} = {b}\n" for a, b in pairs], count, settings.seed)
    return [Pair(i, a, b, shots) for i, (a, b) in enumerate(pairs)]


def answer(
    model: LanguageModel, examples: Sequence[Pair], first: int, settings: EvalSettings
) -> Iterator[Record]:
    length, count = room(model, LENGTH)
    prompts = [p.shots.prompt(model, p.number, f"{p.source} =", count) for p in examples]
    for pair, text in zip(
        examples, model.complete(prompts, Decoding(length, ("\n",))), strict=True
    ):
        made = " ".join(sentences(text)[: max(1, len(sentences(pair.source)))])
        yield {"translation": made, "counts": bleu_counts(made, pair.reference)}


def _task(source: str, target: str, title: str, figure: float) -> EvalTask:
    return EvalTask(
        f"wmt14-{source}-{target}",
        title,
        (f"newstest2014.{source}", f"newstest2014*.{source}"),
        f"newstest2014.{source} and newstest2014.{target} in one folder, a sentence a line",
        "sentence",
        (Metric("BLEU", ("counts",), bleu, paper(figure)),),
        reader(source, target),
        examples,
        answer,
        check=lambda: needs("sacrebleu"),
    )


TASKS = (
    _task("en", "fr", "WMT14 English to French", 5),
    _task("fr", "en", "WMT14 French to English", 11.5),
)
