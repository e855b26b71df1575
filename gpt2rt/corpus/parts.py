"""The file of a shard's results, and of its rejects, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.corpus.jobs import RowResult
from gpt2rt.corpus.shards import Shard
from gpt2rt.corpus.tables import Table


@dataclass(frozen=True, slots=True)
class DonePart:
    """What the manifest says of a part: a line of it.

    Attributes:
        part: the number of the shard.
        rows: rows read, rejects included.
        records: records written.
        rejects: rows (or samples of rows) that failed.
        input: the digest of the shard's rows.
        sha256: of the file of records.
    """

    part: int
    rows: int
    records: int
    rejects: int
    input: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Where parts lie and what form they have; can be pickled, and used by many processes."""

    directory: Path
    table: Table

    def path(self, number: int) -> Path:
        """The file of a shard's records."""
        raise NotImplementedError

    def rejects(self, number: int) -> Path:
        """The file of a shard's rejects, JSON lines; there is none where nothing was rejected."""
        raise NotImplementedError

    def write(self, shard: Shard, results: Iterable[RowResult]) -> DonePart:
        """Write both files of a shard, the records last, replacing what there is.

        The same results give the same bytes. Raises `OSError`.
        """
        raise NotImplementedError
