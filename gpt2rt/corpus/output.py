"""The output of a job: a directory of parts with a manifest, or a file that they are joined to.

    part-00000000.jsonl  the results of the first shard, and so on
    _manifest.jsonl      a line on the job, a line for each part done, a last one when all is
    _rejects.jsonl       the rows that could not be worked on, and why

A file `out.jsonl` has its parts in `out.jsonl.parts/` until all are done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.paths import path_text
from gpt2rt.bundles.writing import write_bytes, write_with
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.jobs import Job
from gpt2rt.corpus.locks import locked
from gpt2rt.corpus.names import KNOWN, form_of
from gpt2rt.corpus.parts import DonePart, Layout
from gpt2rt.corpus.shards import Shard
from gpt2rt.corpus.streams import arrow
from gpt2rt.corpus.tables import Table
from gpt2rt.corpus.values import check_names
from gpt2rt.errors import BadData, InvalidSetting
from gpt2rt.text.controls import json_line

FORMAT, VERSION = "gpt2rt corpus", 1
BEGINS = json_line({"format": FORMAT}).rstrip("}\n").encode()  # how a manifest begins
MANIFEST, REJECTS, PARTS = "_manifest.jsonl", "_rejects.jsonl", ".parts"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a user wants the results: a file, or a directory of parts.

    Attributes:
        path: as the user names it, for messages.
        file: the file; None: a directory.
        directory: where parts and manifest are.
        form: of the parts, and of the file.
        compression: `gz`, `bz2`, `xz`, `zst`, or nothing.
    """

    path: str
    file: Path | None
    directory: Path
    form: str
    compression: str

    @classmethod
    def of(cls, path: str) -> Target:
        """A directory if `path` is one, ends in `/`, or has no suffix; else a file by its suffix.

        The parts of a directory are of the form that its name ends in, or else JSON lines. Raises
        `InvalidSetting` for a form that there is not.
        """
        form, compression = form_of(path)
        place = Path(path)
        ends = path.endswith(("/", os.sep)) or not place.suffix
        if form == "parquet" and compression:
            raise InvalidSetting(f"{path}: Parquet is compressed by itself; leave the suffix out")
        if ends or place.is_dir():
            return cls(path, None, place, form or "jsonl", compression)
        if form is None:
            raise InvalidSetting(
                f"{path}: name a file that ends in {KNOWN}, or a directory, as `{path}/`"
            )
        file = place.resolve()  # a link stays one
        directory = file.with_name(f"{file.name}{PARTS}")
        return cls(path, file, directory, form, compression)

    @property
    def manifest(self) -> Path:
        return self.directory / MANIFEST

    def earlier(self) -> dict[str, Any] | None:
        """The first line of the manifest of an earlier run that has results; None: there is none.

        Raises `InvalidSetting` for a file that is no manifest.
        """
        try:
            with self.manifest.open("rb") as file:
                first = file.readline()
        except OSError:
            return None
        return _header(self, first) if first.endswith(b"\n") else None


class Output:
    """One run's output, of which this process is the only writer; a context manager.

    What an earlier run of the same job has done is not done again. A part counts once its line is
    in the manifest.
    """

    def __init__(
        self, target: Target, job: Job, bundle: Bundle, corpus: Corpus, shard_rows: int
    ) -> None:
        """Open the output, or take up that of an earlier run of the same job.

        Raises `InvalidSetting` for what is no output of this job, which stays as it is, and for one
        that another process writes.
        """
        self.target = target
        self._check_inputs(corpus)
        carried = None if target.form in ("jsonl", "txt") else corpus.columns()
        table = _table(target, job, carried)
        self.layout = Layout(target.directory.absolute(), table)
        self.done: dict[int, DonePart] = {}
        self.complete = False
        self.header = {
            "format": FORMAT,
            "version": VERSION,
            "job": job.name,
            "model": bundle.name,
            "bundle": bundle.digest,
            "form": target.form + (f".{target.compression}" if target.compression else ""),
            "shard_rows": shard_rows,
            "settings": json.loads(json.dumps(job.settings())),
        }
        self._check_foreign()
        try:
            target.directory.mkdir(parents=True, exist_ok=True)
            self._manifest: BinaryIO = target.manifest.open("a+b")
        except OSError as error:
            raise InvalidSetting(f"--output {target.path}: {error.strerror}") from None
        try:
            if not locked(self._manifest):
                raise InvalidSetting(f"--output {target.path}: another run is writing it")
            self._take_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._manifest.close()

    # ---- what there is

    def _refuse(self, what: str) -> InvalidSetting:
        return InvalidSetting(f"--output {self.target.path}: {what}")

    def _check_inputs(self, corpus: Corpus) -> None:
        for file in corpus.files:
            with suppress(OSError):
                place = self.target.file or self.target.directory
                if place.exists() and place.samefile(file.path):
                    raise self._refuse("is the file of the texts; name another")

    def _check_foreign(self) -> None:
        """Raises for what is there without a manifest."""
        target = self.target
        if target.manifest.exists():
            return
        place = target.file or target.directory
        if target.file is not None and place.is_file() and place.stat().st_size:
            raise self._refuse("is no output of such a run; name another file, or remove it")
        if target.file is not None and place.exists() and not place.is_file():
            raise self._refuse("not a file; leave --output out for a pipe")
        if target.directory.exists() and not target.directory.is_dir():
            raise self._refuse("not a directory; name another, or a file with a suffix")
        if target.directory.is_dir() and any(target.directory.iterdir()):
            where = path_text(target.directory)
            raise self._refuse(f"{where} has files, and none is the manifest of such a run")

    def _take_up(self) -> None:
        """Read the manifest, drop half a line at its end."""
        self._manifest.seek(0)
        first = self._manifest.readline()
        place = 0
        if first.endswith(b"\n"):
            earlier = _header(self.target, first)
            place = self._read_parts(len(first))
            gone = self.target.file is not None and not self.target.file.exists()
            if not self.done or (self.complete and gone):  # nothing there: begin anew
                self.done, self.complete, place = {}, False, 0
            else:
                self._compare(earlier)
        elif first[: len(BEGINS)] != BEGINS[: len(first)]:
            raise self._refuse(f"{MANIFEST} is no manifest of such a run; remove it")
        self._manifest.truncate(place)
        if not place:
            self._append(self.header)

    def _compare(self, earlier: dict[str, Any]) -> None:
        """Raises `InvalidSetting` naming what another run had that this one has not."""
        for name, what in (("job", "the command"), ("bundle", "another model"), ("form", "form")):
            if earlier.get(name) != self.header[name]:
                told = earlier.get("model" if name == "bundle" else name)
                raise self._refuse(f"was made with {what} {told}; name another, or remove it")
        if other := list(_differences(earlier.get("settings"), self.header["settings"])):
            raise self._refuse(
                f"was made with other settings ({', '.join(other[:3])}); name another, or remove it"
            )
        if earlier.get("shard_rows") != self.header["shard_rows"]:
            raise self._refuse(f"was made with --shard-rows {earlier.get('shard_rows')}")

    def _read_parts(self, place: int) -> int:
        """The parts done, and where the last whole line ends."""
        names = {field.name for field in fields(DonePart)}
        for number, raw in enumerate(self._manifest, 2):
            if not raw.endswith(b"\n"):
                break
            try:
                body = json.loads(raw)
                self.complete = body.get("complete") is True
                if not self.complete:
                    part = DonePart(**{name: body[name] for name in names})
                    self.done[part.part] = part
            except (ValueError, KeyError, TypeError, AttributeError):
                raise self._refuse(
                    f"{MANIFEST}, line {number}: no line of a manifest; remove the output"
                ) from None
            place += len(raw)
        return place

    # ---- what is to be done

    def due(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards that are not done yet.

        Raises `InvalidSetting` where a shard that is done had other rows, or is no more; `BadData`
        where a part was changed.
        """
        last = -1
        for shard in shards:
            last = shard.number
            part = self.done.get(last)
            if part is None:
                if self.complete:
                    raise self._changed(shard)
                yield shard
                continue
            if part.input != shard.digest:
                raise self._changed(shard)
            if self.complete and self.target.file is not None:
                continue  # the parts are in the file
            if self._is_there(part):
                continue
            yield shard
        if gone := [number for number in self.done if number > last]:
            raise self._refuse(
                f"part {min(gone)} has texts that the input no longer has; name another, or "
                "remove it"
            )

    def _changed(self, shard: Shard) -> InvalidSetting:
        first, last = shard.rows[0], shard.rows[-1]
        return self._refuse(
            f"was made of other texts than those of {first.place} to {last.line}, or of more or "
            "fewer; name another, or remove it"
        )

    def _is_there(self, part: DonePart) -> bool:
        path = self.layout.path(part.part)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            if self.complete:
                self._reopen()
            return False
        if size != part.bytes:
            raise BadData(
                f"{path_text(path)}: was changed: {size} bytes, not {part.bytes}; remove it, to "
                "have it made again"
            )
        return True

    def add(self, part: DonePart) -> None:
        """Note a part whose files are in place."""
        self.done[part.part] = part
        self._append(asdict(part))

    def _append(self, body: dict[str, Any]) -> None:
        self._manifest.write(json_line(body).encode())
        self._manifest.flush()

    # ---- the end

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.done.values())

    @property
    def rejects(self) -> int:
        return sum(part.rejects for part in self.done.values())

    @property
    def rejects_path(self) -> Path:
        """The file of all rejects, in the order of the rows; there is none where there are none."""
        return self.target.directory / REJECTS

    def finish(self) -> None:
        """All shards are done: join what is to be one file, and say so in the manifest."""
        parts = [self.done[number] for number in sorted(self.done)]
        if not self.complete:
            self._join_rejects(parts)
            body: dict[str, Any] = {
                "complete": True,
                "parts": len(parts),
                "rows": self.rows,
                "records": sum(part.records for part in parts),
                "rejects": self.rejects,
            }
            if self.target.file is not None:
                body["sha256"] = self._join(self.target.file, parts)
            self._append(body)
            self.complete = True
        for part in parts:  # those of a run that was killed here are still there
            self.layout.rejects(part.part).unlink(missing_ok=True)
            if self.target.file is not None:
                self.layout.path(part.part).unlink(missing_ok=True)

    def _join_rejects(self, parts: list[DonePart]) -> None:
        """All rejects in one file."""
        if not self.rejects:
            self.rejects_path.unlink(missing_ok=True)
            return

        def write(file: BinaryIO) -> None:
            for part in parts:
                if part.rejects:
                    file.write(self.layout.rejects(part.part).read_bytes())

        write_with(self.rejects_path, write)

    def _reopen(self) -> None:
        """Something is missing of what was complete: give each part its rejects back."""
        self.complete = False
        if not self.rejects:
            return
        with self.rejects_path.open("rb") as lines:
            for number in sorted(self.done):
                if count := self.done[number].rejects:
                    write_bytes(self.layout.rejects(number), b"".join(islice(lines, count)))

    def _join(self, place: Path, parts: list[DonePart]) -> str:
        """Join the parts; returns the sha256 of the file."""
        paths = [self.layout.path(part.part) for part in parts]
        sha256 = ""

        def write(file: BinaryIO) -> None:
            nonlocal sha256
            self.layout.table.join(paths, file, self.target.compression)
            file.seek(0)
            sha256 = _hash(file)
            if place.exists() and place.stat().st_size:
                with place.open("rb") as there:  # that of a run that was killed here, or another
                    if _hash(there) != sha256:
                        raise self._refuse("has come to be meanwhile; move it away")

        write_with(place, write)
        return sha256


def _hash(file: Any) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _table(target: Target, job: Job, carried: dict[str, Any] | None) -> Table:
    if target.form == "txt" and job.line is None:
        raise InvalidSetting(f"{target.path}: `{job.name}` writes JSON lines, CSV and Parquet")
    if "parquet" in target.form or target.compression == "zst":
        arrow(f".{target.compression or target.form}")
    columns = job.columns()
    if carried is not None:
        check_names(carried, columns)
    elif target.form in ("csv", "tsv", "parquet"):
        check_names({"input": None}, columns)
    compression = "" if target.file is not None else target.compression
    return Table(target.form, columns, carried, compression, job.line)


def _header(target: Target, raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError
    except (ValueError, RecursionError):
        raise InvalidSetting(
            f"--output {target.path}: {MANIFEST} is no manifest of such a run; remove it"
        ) from None
    if body.get("version") != VERSION:
        raise InvalidSetting(
            f"--output {target.path}: version {body.get('version')!r}, this gpt2rt writes "
            f"{VERSION}; name another"
        )
    return body


def _differences(earlier: Any, now: Any, name: str = "settings") -> Iterator[str]:
    """The settings that differ, as `length 6, now 7`."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in sorted(earlier.keys() | now.keys()):
            yield from _differences(earlier.get(key), now.get(key), key)
    elif earlier != now:
        yield f"{name} {json.dumps(earlier)}, now {json.dumps(now)}"
