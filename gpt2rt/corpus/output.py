"""The output of a job: a directory of parts with a manifest, or a file that they are joined to.

    part-00000000.jsonl  the results of the first part, and so on
    _manifest.jsonl      what is done (`gpt2rt.corpus.ledger`)
    _rejects.jsonl       the rows that could not be worked on, and why

A file `out.jsonl` has its parts in `out.jsonl.parts/` until all are done.
"""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.paths import path_text
from gpt2rt.bundles.writing import write_bytes, write_with
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.jobs import Job
from gpt2rt.corpus.layout import DonePart, Layout
from gpt2rt.corpus.ledger import Ledger
from gpt2rt.corpus.remaining import Remaining
from gpt2rt.corpus.tables import table_for
from gpt2rt.errors import BadData


class Output:
    """One run's output, of which this process is the only writer; a context manager.

    What an earlier run of the same job has done is not done again. A part counts once it is in the
    manifest.
    """

    def __init__(
        self, place: Destination, job: Job, bundle: Bundle, corpus: Corpus, part_rows: int
    ) -> None:
        """Open the output, or take up that of an earlier run of the same job.

        Raises `InvalidSetting` for what is no output of this job, which stays as it is, and for one
        that another process writes; `BadData` for a file that was changed since it was complete.
        """
        place.check(corpus)
        self.place = place
        self.layout = Layout(place.directory, table_for(job, place, corpus))
        settings = {
            "job": job.name,
            "model": bundle.name,
            "bundle": bundle.digest,
            "output": place.suffix,
            "part_rows": part_rows,
            "settings": json.loads(json.dumps(job.settings())),  # tuples as lists, as read back
        }
        self._ledger = Ledger(place, settings)
        end = self._ledger.end
        try:
            if place.file is not None and end is not None:
                _check(place.file, end.get("sha256"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the output."""
        self._ledger.close()

    @property
    def rows(self) -> int:
        """Rows done so far, rejects included."""
        return sum(part.rows for part in self._ledger.done.values())

    @property
    def rejects(self) -> int:
        """What could not be done so far: rows, or samples of them."""
        return sum(part.rejects for part in self._ledger.done.values())

    def remaining(self) -> Remaining:
        """What is to be done yet. Raises `BadData` where a part, or the rejects, were changed."""
        done, end = self._ledger.done, self._ledger.end
        if end is not None and self.rejects:
            if self.place.rejects.exists():
                _check(self.place.rejects, end.get("rejects_sha256"))
            else:
                self._ledger.end = None  # not complete: rejects are made with their parts
        there = {number for number, part in done.items() if self._is_there(part)}
        digests = {number: part.input for number, part in done.items()}
        return Remaining(self.place, digests, frozenset(there), self._ledger.end is not None)

    def _is_there(self, part: DonePart) -> bool:
        complete = self._ledger.end is not None
        if complete and self.place.file is not None:
            return True  # in the file
        files = {self.layout.path(part.part): part.sha256}
        if part.rejects and not complete:
            files[self.layout.rejects(part.part)] = part.rejects_sha256
        if all(path.exists() for path in files):
            for path, sha256 in files.items():
                _check(path, sha256)
            return True
        if complete:
            self._reopen()
        return False

    def add(self, part: DonePart) -> None:
        """Note a part whose files are in place."""
        self._ledger.add(part)

    # ---- the end

    def finish(self) -> None:
        """All parts are done: join what is to be one file, and say so in the manifest.

        Raises `InvalidSetting` where another file came to be there meanwhile.
        """
        parts = [self._ledger.done[number] for number in sorted(self._ledger.done)]
        if self._ledger.end is None:
            counts = {"rows": self.rows, "records": sum(part.records for part in parts)}
            end = {"parts": len(parts), **counts, "rejects": self.rejects}
            end |= self._join_rejects(parts)
            if self.place.file is not None:
                end |= self._join(self.place.file, parts)
            self._ledger.finish(end)
        for part in parts:  # those of a run that was killed here are still there
            if part.rejects:
                self.layout.rejects(part.part).unlink(missing_ok=True)
            if self.place.file is not None:
                self.layout.path(part.part).unlink(missing_ok=True)

    def _join_rejects(self, parts: list[DonePart]) -> dict[str, Any]:
        """All rejects in one file; returns what the manifest says of it, nothing without any."""
        found: dict[str, Any] = {}
        if not self.rejects:
            self.place.rejects.unlink(missing_ok=True)
            return found

        def write(file: BinaryIO) -> None:
            for part in parts:
                if part.rejects:
                    file.write(self.layout.rejects(part.part).read_bytes())
            file.seek(0)
            found["rejects_sha256"] = _hash(file)

        write_with(self.place.rejects, write)
        return found

    def _reopen(self) -> None:
        """Something is missing of what was complete: give each part its rejects back."""
        self._ledger.end = None
        if not self.rejects:
            return
        with self.place.rejects.open("rb") as lines:
            for number, part in sorted(self._ledger.done.items()):
                if part.rejects:
                    own = b"".join(islice(lines, part.rejects))
                    write_bytes(self.layout.rejects(number), own)

    def _join(self, place: Path, parts: list[DonePart]) -> dict[str, Any]:
        """Join the parts; returns what the manifest says of the file."""
        paths = [self.layout.path(part.part) for part in parts]
        found: dict[str, Any] = {}

        def write(file: BinaryIO) -> None:
            self.layout.table.join(paths, file, self.place.compression)
            found["bytes"] = file.tell()
            file.seek(0)
            found["sha256"] = _hash(file)
            if place.exists() and place.stat().st_size:
                with place.open("rb") as there:  # of a run that was killed here, or another's
                    if _hash(there) != found["sha256"]:
                        raise self.place.refusal("has come to be meanwhile; move it away")

        write_with(place, write)
        return found


def _check(path: Path, sha256: str | None) -> None:
    """Raises `BadData` where a file is not what was written."""
    with path.open("rb") as file:
        if _hash(file) == sha256:
            return
    raise BadData(f"{path_text(path)}: was changed since; remove it, to have it made again")


def _hash(file: Any) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
