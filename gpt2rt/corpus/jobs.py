"""What is done with every row of a corpus; each kind of job has a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.corpus.rows import TextRow

Record = dict[str, Any]
# What a column of results holds; a `vector` is of float32, `json` is any value.
Kind = Literal["int", "float", "text", "ints", "floats", "vector", "json"]


@dataclass(frozen=True, slots=True)
class RowResult:
    """The results of a row: records, and faults where something could not be made."""

    row: TextRow
    records: tuple[Record, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is loaded; it changes no result."""

    threads: int | None = None
    provider: str = "auto"
    draft: str | None = None
    prefix_bytes: int = 0


class Job(ABC):
    """What is done with every row: a frozen value that can be pickled.

    The results of a row depend on the job, the bundle and the row (`score` with documents: its
    document), never on other rows, so rows may be cut into shards in any way.
    """

    name: ClassVar[str]  # of the command

    def load(self, bundle: Bundle, loading: Loading) -> Any:
        """The model that `results` takes: a `GPT2`, or only what the job needs of it."""
        raise NotImplementedError

    @property
    def together(self) -> bool:
        """Whether the rows of a document must be in one shard."""
        return False

    @abstractmethod
    def settings(self) -> Record:
        """All that results depend on but bundle and rows, as JSON has it."""

    @abstractmethod
    def columns(self) -> Mapping[str, Kind]:
        """The names of the fields that every record has, in their order, and what they hold."""

    @abstractmethod
    def results(self, model: Any, rows: Iterable[TextRow]) -> Iterator[RowResult]:
        """The results of every row, in any order; rows are taken as there is room for them.

        A row that cannot be worked on has faults. Raises `InvalidSetting` for settings that the
        model does not allow, whatever the rows; `StepFailed`, `OutOfMemory`.
        """
