"""A shard: consecutive rows of a corpus, whose results are one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt2rt.corpus.rows import TextRow


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows, at least one; `number` counts from 0."""

    number: int
    rows: tuple[TextRow, ...]

    @property
    def digest(self) -> str:
        """A hash of all that the results depend on: numbers, places, texts and other columns."""
        raise NotImplementedError


def shards(rows: Iterable[TextRow], size: int, *, together: bool = False) -> Iterator[Shard]:
    """The rows in shards of `size`, the last one of fewer; read as they are asked for.

    `together`: a shard ends only where a document does.
    """
    raise NotImplementedError
