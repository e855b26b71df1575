"""The manifest of an output: what the job is, and what is done of it.

A line of JSON on the job, a line for each part that is done, and a last one when all is. Lines are
only ever appended, so that a million parts cost no more than they must; half a line, of a run that
was killed, does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any, BinaryIO

from gpt2rt.corpus.destination import MANIFEST, Destination
from gpt2rt.corpus.layout import DonePart
from gpt2rt.corpus.locks import locked
from gpt2rt.errors import InvalidSetting
from gpt2rt.text.controls import json_line

FORMAT, VERSION = "gpt2rt corpus", 2
BEGINS = json_line({"format": FORMAT}).rstrip("}\n").encode()  # how a manifest begins


class Ledger:
    """The manifest of one run, which no other process can open meanwhile.

    Attributes:
        done: the parts that are done, by their numbers.
        end: the last line, once all is complete.
    """

    def __init__(self, place: Destination, job: Mapping[str, Any]) -> None:
        """Take up the manifest of an earlier run of the same job, or begin one.

        Raises `InvalidSetting` for another job's, and for one that another process has.
        """
        self.done: dict[int, DonePart] = {}
        self.end: dict[str, Any] | None = None
        self._place = place
        # The directories that are this program's, to be removed again, the innermost first.
        missing = [at for at in (place.directory, *place.directory.parents) if not at.exists()]
        self._own = missing or [place.directory] * (place.file is not None)
        self._file = _locked(place)
        try:
            self._take_up({"format": FORMAT, "version": VERSION, **job})
        except BaseException:  # what was refused stays as it is
            self._file.close()
            raise

    def close(self) -> None:
        """Let others have the manifest; one that says nothing goes, and directories made for it."""
        if not self.done and self.end is None:
            with suppress(OSError):  # Windows does not let it go while it is open
                if [path.name for path in self._place.directory.iterdir()] == [MANIFEST]:
                    self._place.manifest.unlink()
                    for directory in self._own:
                        directory.rmdir()
        self._file.close()

    def add(self, part: DonePart) -> None:
        """Note a part whose files are in place."""
        self.done[part.part] = part
        self._append(asdict(part))

    def finish(self, end: Mapping[str, Any]) -> None:
        """Note that all is complete."""
        self.end = {"complete": True, **end}
        self._append(self.end)

    def _append(self, body: Mapping[str, Any]) -> None:
        self._file.write(json_line(body).encode())
        self._file.flush()

    def _take_up(self, job: dict[str, Any]) -> None:
        self._file.seek(0)
        first, size = self._file.readline(), 0
        if first.endswith(b"\n"):
            earlier = _header(self._place, first)
            size = self._read(len(first))
            gone = self._place.file is not None and not self._place.file.exists()
            if not self.done or (self.end is not None and gone):  # nothing is there: begin anew
                self.done, self.end, size = {}, None, 0
            else:
                self._compare(earlier, job)
        elif first[: len(BEGINS)] != BEGINS[: len(first)]:
            raise _no_manifest(self._place)
        self._file.truncate(size)
        if not size:
            self._append(job)

    def _read(self, size: int) -> int:
        """Read the lines after the first, which has `size` bytes; returns where whole ones end."""
        names = {field.name for field in fields(DonePart)}
        for number, raw in enumerate(self._file, 2):
            if not raw.endswith(b"\n"):
                break
            try:
                body = json.loads(raw)
                self.end = body if body.get("complete") is True else None
                if self.end is None:
                    part = DonePart(**{name: body[name] for name in names})
                    self.done[part.part] = part
            except (ValueError, KeyError, TypeError, AttributeError):
                raise self._place.refusal(
                    f"{MANIFEST}, line {number}, is no line of a manifest; remove the output"
                ) from None
            size += len(raw)
        return size

    def _compare(self, earlier: dict[str, Any], job: dict[str, Any]) -> None:
        """Raises `InvalidSetting` naming what another run had that this one has not."""
        if other := list(_differences(earlier, job)):
            raise self._place.refusal(
                f"was made with other settings ({'; '.join(other[:3])}); name another, or remove it"
            )


def _locked(place: Destination) -> BinaryIO:
    """The manifest, made if need be, which no other process can have meanwhile.

    Raises `InvalidSetting` where another has it, or where it cannot be opened.
    """
    while True:
        try:
            place.directory.mkdir(parents=True, exist_ok=True)
            file = place.manifest.open("a+b")
        except OSError as error:
            raise place.refusal(str(error.strerror)) from None
        if not locked(file):
            file.close()
            raise place.refusal("another run is writing it")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), place.manifest.stat()):
                return file
        file.close()  # the run that had it removed it meanwhile


def earlier_job(place: Destination) -> dict[str, Any] | None:
    """The first line of an earlier run's manifest; None: there is none.

    Raises `InvalidSetting` for a file that is no manifest.
    """
    try:
        with place.manifest.open("rb") as file:
            first = file.readline()
    except OSError:
        return None
    return _header(place, first) if first.endswith(b"\n") else None


def _header(place: Destination, raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise _no_manifest(place) from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise _no_manifest(place)
    if body.get("version") != VERSION:
        raise place.refusal(
            f"is of version {body.get('version')!r}, and this gpt2rt writes {VERSION}; name another"
        )
    return body


def _no_manifest(place: Destination) -> InvalidSetting:
    return place.refusal(f"{MANIFEST} is no manifest of such a run; remove it")


def _differences(earlier: Any, now: Any, name: str = "all") -> Iterator[str]:
    """The settings that differ, as `length 6, now 7`."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in sorted(earlier.keys() | now.keys()):
            yield from _differences(earlier.get(key), now.get(key), key)
    elif earlier != now:
        yield f"{name} {json.dumps(earlier)}, now {json.dumps(now)}"
