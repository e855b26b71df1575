"""A corpus: all rows of some files, numbered through."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gpt2rt.corpus.names import KNOWN, STDIN, form_of, hidden
from gpt2rt.corpus.readers import WHOLE, FileReader
from gpt2rt.corpus.rows import ITEM, TextRow
from gpt2rt.corpus.streams import BytesRead, exists, named
from gpt2rt.errors import BadData, InvalidSetting


@dataclass(frozen=True, slots=True)
class Corpus:
    """The rows of files, which are read as they are asked for, in the memory of a few.

    Attributes:
        files: their readers, in the order of the rows.
        paths: the files, directories and globs that they were found by.
    """

    files: tuple[FileReader, ...]
    paths: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, paths: list[str], *, column: str | None = None, usual: str = "text", plain: str = "txt"
    ) -> Corpus:
        """The corpus of files, of directories (the files of known forms in them, in the order of
        their names) and of globs; `-` is standard input.

        `column` is the column of the texts, None the `usual` one: `text`, or `prompt` for prompts,
        which may be token ids or null. `plain` says what a file of text is: `txt` a row a line,
        `whole` one row. Raises `BadData` for a path that names no file.
        """
        if paths.count(STDIN) > 1:
            raise InvalidSetting("standard input can be read once only: give `-` once")
        found = [file for path in paths for file in _files(path)]
        files = (FileReader.of(file, column, usual, plain) for file in found)
        return cls(tuple(files), tuple(paths))

    def would_read(self, place: Path) -> bool:
        """Whether a file that is written at `place` would be one of the corpus, the next time."""
        place = place.absolute()
        for path in map(os.path.abspath, self.paths):
            if os.path.isdir(path) and place.is_relative_to(path):
                return True
            if not exists(path) and glob.has_magic(path) and fnmatch(str(place), path):
                return True
        return False

    @property
    def bytes(self) -> int | None:
        """The size of all files; None where it is not known, as of a pipe."""
        if not all(Path(file.path).is_file() for file in self.files):
            return None
        return sum(os.stat(file.path).st_size for file in self.files)

    def rows(self, meter: BytesRead | None = None) -> Iterator[TextRow]:
        """All rows, those that are no text with their `fault`; blank lines are passed over.

        Raises `BadData` and `BadText` for a file that is not of its form, `MissingExtra`.
        """
        meter = meter or BytesRead()
        number = 0
        for nth, file in enumerate(self.files, 1):
            name = file.name
            for found in file.rows(meter):
                number += 1
                if found is not None:
                    document = f"file {nth} {found.columns.get(ITEM, '')}"
                    place = number, name, found.line
                    yield TextRow(*place, found.text, found.columns, document, found.fault)

    def columns(self) -> dict[str, Any] | None:
        """The other columns where all files are tables: those of the first, with Arrow's types.
        Text has none. None: one of JSON, as where one is a pipe, which can be read once only.

        Raises as `rows`.
        """
        if all(file.form in ("txt", WHOLE) for file in self.files):
            return {}
        tables = all(file.form in ("csv", "tsv", "parquet") for file in self.files)
        return self.files[0].columns() if tables and self.bytes is not None else None


def _files(path: str) -> list[str]:
    if path == STDIN:
        return [path]
    if exists(path):
        return _below(path) if os.path.isdir(path) else [path]
    found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
    found = [name for name in found if not _hidden(name, path) and not os.path.isdir(name)]
    if not found:
        what = "No such file" if not glob.has_magic(path) else "No file fits it"
        raise BadData(f"{named(path)}: {what}; name a file, a directory or a glob")
    return found


def _hidden(name: str, pattern: str) -> bool:
    """Whether a glob found a hidden file, or one in a hidden directory, that it does not name."""
    *folders, last = Path(name).parts
    asked = Path(pattern).parts
    if hidden(last) and not hidden(asked[-1]):
        return True
    return any(hidden(folder) and folder not in asked for folder in folders)


def _below(directory: str) -> list[str]:
    """The files of known forms in a directory and those below it."""
    found: list[str] = []
    for place, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not hidden(name))
        found += [
            os.path.join(place, name)
            for name in names
            if not hidden(name) and form_of(name)[0] is not None
        ]
    if not found:
        raise BadData(f"{named(directory)}: has no file that ends in {KNOWN}")
    return sorted(found)
