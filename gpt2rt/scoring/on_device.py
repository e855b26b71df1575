"""How whole texts are read on a device: in windows sorted by length, while results are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from gpt2rt.scoring.batching import ahead

if TYPE_CHECKING:
    from gpt2rt.engine.cuda.whole import WholeReader

WINDOW = 8  # calls whose texts are sorted by length: few shapes, little padding

T = TypeVar("T")


class OnDevice:
    """A `BatchReader` of whole texts on a device, which has work while results are used."""

    most: int | None = None

    def __init__(self, whole: WholeReader, pool: ThreadPoolExecutor) -> None:
        """`pool` has one thread, which reads."""
        self.window = WINDOW * whole.budget
        self._whole, self._pool = whole, pool

    def size(self) -> int:
        return self._whole.budget

    def width(self, length: int, longest: int) -> int:
        return self._whole.width(longest)

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        return ahead(jobs, self._pool, WINDOW)
