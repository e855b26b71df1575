"""The description of a task, and the settings of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2rt.errors import InvalidSetting
from gpt2rt_evals.metrics import Metric, Record
from gpt2rt_evals.model import LanguageModel


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """The settings of a run. Raises `InvalidSetting` for values out of range.

    limit: examples evaluated, from the first on (None: all). stride: tokens that a window moves on
    in language modelling (None: the whole context). shots: examples shown in a prompt (None: as
    many as the task shows). seed: for sampling and for the choice of examples that are shown.
    special: whether control tokens in the texts are encoded as tokens or as text (see
    `TextTokenizer.encode`).
    """

    limit: int | None = None
    stride: int | None = None
    shots: int | None = None
    seed: int = 0
    special: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("stride", 1), ("shots", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidSetting(f"{name} must be {least} or more, not {value}")
        if not 0 <= self.seed < 1 << 63:
            raise InvalidSetting(f"seed must be 0 to 2**63 - 1, not {self.seed}")


@dataclass(frozen=True, slots=True)
class EvalTask:
    """A task: a row of the paper's tables, or such a figure by another method.

    files: patterns of the data file's name in a folder, best first.
    data: the format of that file, in words.
    unit: what an example is called.
    read: the file -> its data; raises `BadData`.
    examples: the data -> examples for one model.
    answer: examples, and the number of the first -> a record each, in order. A record has numbers,
        strings and lists of numbers, and is kept on disk.
    chunk: how many examples are answered together.
    check: raises `MissingExtra` where a library is missing, before any work is done.
    """

    name: str
    title: str
    files: tuple[str, ...]
    data: str
    unit: str
    metrics: tuple[Metric, ...]
    read: Callable[[Path], Any]
    examples: Callable[[Any, LanguageModel, EvalSettings], Sequence[Any]]
    answer: Callable[[LanguageModel, Sequence[Any], int, EvalSettings], Iterable[Record]]
    chunk: int = 32
    check: Callable[[], None] = lambda: None


def as_they_are(data: Sequence[Any], model: LanguageModel, settings: EvalSettings) -> Sequence[Any]:
    """`EvalTask.examples` of a task whose file already holds its examples."""
    return data
