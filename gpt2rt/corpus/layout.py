"""The file of a part's results, and of its rejects, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles.writing import write_bytes
from gpt2rt.corpus.jobs import RowResult
from gpt2rt.corpus.part import CorpusPart
from gpt2rt.corpus.tables import Table
from gpt2rt.corpus.values import nested
from gpt2rt.text.controls import json_line


@dataclass(frozen=True, slots=True)
class DonePart:
    """What the manifest says of a part: a line of it.

    Attributes:
        part: the number of the part.
        rows: rows read, rejects included.
        records: records written.
        rejects: faults: rows, or samples of rows, that could not be made.
        bytes: the size of the file of records.
        input: the digest of the part's rows.
        sha256: of the file of records.
        rejects_sha256: of the file of rejects; where there is none, of no bytes.
    """

    part: int
    rows: int
    records: int
    rejects: int
    bytes: int
    input: str
    sha256: str
    rejects_sha256: str


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """The bytes of a part's files."""

    part: DonePart
    records: bytes
    rejects: bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Where parts lie and what form they have; can be pickled, and used by many processes."""

    directory: Path
    table: Table

    def path(self, number: int) -> Path:
        """The file of a part's records."""
        return self.directory / f"part-{number:08d}{self.table.suffix}"

    def rejects(self, number: int) -> Path:
        """The file of a part's rejects, JSON lines; there is none where nothing was rejected."""
        return self.directory / f"_rejects-{number:08d}.jsonl"

    def write(self, part: CorpusPart, results: Iterable[RowResult]) -> DonePart:
        """Write both files of a part, the records last, replacing what there is.

        The same results, in whatever order, give the same bytes. Raises `OSError`, `BadData`.
        """
        return self.put(self.encode(part, results))

    def encode(self, part: CorpusPart, results: Iterable[RowResult]) -> EncodedPart:
        """Both files of a part, not written yet. Raises `BadData`."""
        ordered = sorted(results, key=lambda result: result.row.number)
        faults = [(result.row, fault) for result in ordered for fault in result.faults]
        lines = (
            json_line(nested(row, {"reason": fault, "text": row.text})) for row, fault in faults
        )
        rejects = "".join(lines).encode()
        file = io.BytesIO()
        placed = ((result.row, record) for result in ordered for record in result.records)
        self.table.write(placed, file)
        data = file.getvalue()
        done = DonePart(
            part.number,
            len(part.rows),
            sum(len(result.records) for result in ordered),
            len(faults),
            len(data),
            part.digest,
            hashlib.sha256(data).hexdigest(),
            hashlib.sha256(rejects).hexdigest(),
        )
        return EncodedPart(done, data, rejects)

    def put(self, encoded: EncodedPart) -> DonePart:
        """Write both files of a part, the records last. Raises `OSError`."""
        number = encoded.part.part
        if encoded.rejects:
            write_bytes(self.rejects(number), encoded.rejects)
        else:
            with suppress(FileNotFoundError):
                self.rejects(number).unlink()
        write_bytes(self.path(number), encoded.records)
        return encoded.part
