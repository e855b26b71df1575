"""What is done with every row of a corpus; each kind of job has a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.rows import TextRow
from gpt2rt.errors import BadText, PromptTooLong

Record = dict[str, Any]
# What a column of results holds: `floats` are of 32 bits, `any` is text, or else JSON.
Kind = Literal["int", "float", "text", "ints", "floats", "any"]

REFUSED = BadText, PromptTooLong  # what is wrong with a text, and not with model or settings


@dataclass(frozen=True, slots=True)
class RowResult:
    """The results of a row: records, and faults where something could not be made."""

    row: TextRow
    records: tuple[Record, ...] = ()
    faults: tuple[str, ...] = ()


class Job(ABC):
    """What is done with every row: a frozen value that can be pickled.

    The results of a row depend on the job, the bundle and the row (where documents are kept
    together: on its document), never on other rows, so rows may be cut into parts in any way.
    """

    name: ClassVar[str]  # of the command

    @property
    def line(self) -> str | None:
        """The field that is a record's line in a .txt file; None: there can be none."""
        return None

    def load(self, bundle: Bundle, loading: Loading) -> Any:
        """What `results` takes as its model. Raises as `GPT2`."""
        return loading.load(bundle)

    @property
    def together(self) -> bool:
        """Whether the rows of a document must be in one part."""
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
        model does not allow, with or without rows; `StepFailed`, `OutOfMemory`.
        """


U = TypeVar("U")
R = TypeVar("R")


def attempted(
    units: Iterable[U], batch: Callable[[Iterable[U]], Iterator[R]]
) -> Iterator[tuple[U, R | None, str]]:
    """Each unit with its result, or None and what is wrong with the unit.

    `batch` gives the results of units in their order, and raises for a unit that it refuses. Then
    those that it had taken are tried one by one, and it goes on with the others. What `units`
    itself raises is raised.
    """
    rest = iter(units)
    broken: list[Exception] = []
    while True:
        taken: deque[U] = deque()
        try:
            for result in batch(_noted(rest, taken, broken)):
                yield taken.popleft(), result, ""
            return
        except REFUSED as error:
            if broken:
                raise
            told = str(error)
        if len(taken) == 1:
            yield taken[0], None, told
            continue
        for unit in taken:
            try:
                (result,) = batch([unit])
            except REFUSED as error:
                yield unit, None, str(error)
            else:
                yield unit, result, ""


def _noted(units: Iterator[U], taken: deque[U], broken: list[Exception]) -> Iterator[U]:
    """The units, each noted as `taken`, and what ends them as `broken`."""
    try:
        for unit in units:
            taken.append(unit)
            yield unit
    except Exception as error:
        broken.append(error)
        raise
