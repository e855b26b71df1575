"""Rows of files: lines, whole texts, JSON lines, CSV and Parquet, each read as it is asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from gpt2rt.corpus.names import STDIN, form_of
from gpt2rt.corpus.rows import FoundRow, text_of
from gpt2rt.corpus.streams import BytesRead, named, parquet, reading
from gpt2rt.errors import BadData, BadText, InvalidSetting, reason
from gpt2rt.text.textfile import decoded, unmarked, utf8

LONGEST_CELL = 1 << 26  # characters; a quote that nothing closes swallows no more
BATCH = 1024  # rows of Parquet read at a time
WHOLE = "whole"  # a file of text that is one row


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads the rows of one file.

    Attributes:
        path: the file; `-` is standard input.
        form: `txt`, `whole`, `jsonl`, `csv`, `tsv` or `parquet`.
        compression: `gz`, `bz2`, `xz`, `zst`, or nothing.
        column: the column of the texts.
        prompts: whether token ids and null are texts, too.
    """

    path: str
    form: str
    compression: str
    column: str
    prompts: bool

    @classmethod
    def of(cls, path: str, column: str | None, usual: str, plain: str) -> FileReader:
        """By the file's name.

        A file whose name tells no form is a table of tabs if a column is asked for, else text:
        `plain` is `txt` (a row a line) or `whole`. `usual` is the column where none is asked for;
        `prompt` stands for prompts. Raises `InvalidSetting` for a column of a text file.
        """
        form, compression = (None, "") if path == STDIN else form_of(path)
        if form == "txt" and column is not None:
            raise InvalidSetting(
                f"{named(path)}: text has no column {column!r}; leave --column out, or let the "
                "name of a table end in .tsv or .csv"
            )
        if form is None or form == "txt":
            form = plain if column is None else "tsv"
        return cls(path, form, compression, column or usual, usual == "prompt")

    @property
    def name(self) -> str:
        return named(self.path)

    def rows(self, meter: BytesRead) -> Iterator[FoundRow | None]:
        """The rows; None for a blank line. Raises `BadData`, `BadText`, `MissingExtra`."""
        if self.form == "parquet":
            yield from self._parquet(meter)
            return
        with reading(self.path, self.compression, meter) as stream:
            yield from READERS[self.form](self, stream)

    def columns(self) -> dict[str, Any] | None:
        """The other columns of a table, in their order, with Arrow's types (None: text).

        None for a form without columns of its own. Raises as `rows`.
        """
        if self.form == "parquet":
            schema = _opened(self.path, self.name, BytesRead()).schema_arrow
            self._check(schema.names)
            found: dict[str, Any] = {field.name: field.type for field in schema}
        elif self.form in ("csv", "tsv"):
            with reading(self.path, self.compression, BytesRead()) as stream:
                found = dict.fromkeys(self._header(self._cells(stream)), None)
        else:
            return None
        del found[self.column]
        return found

    # ---- text and JSON lines

    def _lines(self, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Numbered lines without their ends."""
        for number, raw in enumerate(stream, 1):
            raw = unmarked(raw, self.name) if number == 1 else raw
            yield number, raw.removesuffix(b"\n").removesuffix(b"\r")

    def _texts(self, stream: IO[bytes]) -> Iterator[FoundRow | None]:
        for number, raw in self._lines(stream):
            yield self._row(number, raw, lambda text: FoundRow(0, text)) if raw.strip() else None

    def _json(self, stream: IO[bytes]) -> Iterator[FoundRow | None]:
        for number, raw in self._lines(stream):
            yield self._row(number, raw, self._parsed) if raw.strip() else None

    @staticmethod
    def _row(number: int, raw: bytes, parse: Callable[[str], FoundRow]) -> FoundRow:
        try:
            found = parse(utf8(raw, "the line"))
        except BadText as error:
            return FoundRow(number, fault=str(error))
        return FoundRow(number, found.text, found.columns)

    def _parsed(self, text: str) -> FoundRow:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadText(f"not JSON ({error})") from None
        if isinstance(value, str):
            return FoundRow(0, value)
        if not isinstance(value, dict):
            raise BadText(f"neither a text nor an object with {self.column!r}")
        if self.column not in value:
            there = ", ".join(map(repr, value)) or "nothing"
            raise BadText(f"neither a text nor an object with {self.column!r}; it has {there:.200}")
        return FoundRow(0, text_of(value.pop(self.column), self.column, self.prompts), value)

    def _whole(self, stream: IO[bytes]) -> Iterator[FoundRow]:
        text = decoded(stream.read(), self.name)
        yield FoundRow(None, text.removesuffix("\n").removesuffix("\r"))

    # ---- CSV

    def _cells(self, stream: IO[bytes]) -> Any:
        """A reader of cells; bytes that are not UTF-8 are half surrogate pairs in them."""
        lines = (raw.decode("utf-8", "surrogateescape") for raw in self._marked_lines(stream))
        csv.field_size_limit(LONGEST_CELL)
        return csv.reader(lines, delimiter="," if self.form == "csv" else "\t", strict=True)

    def _marked_lines(self, stream: IO[bytes]) -> Iterator[bytes]:
        for number, raw in enumerate(stream):
            yield raw if number else unmarked(raw, self.name)

    def _header(self, cells: Any) -> list[str]:
        try:
            names: list[str] = next(cells, [])
        except csv.Error as error:
            raise BadData(f"{self.name}, line 1: no table ({error}); mend it") from None
        utf8("".join(names).encode("utf-8", "surrogateescape"), f"{self.name}: the first line")
        self._check(names)
        return names

    def _check(self, names: list[str]) -> None:
        if self.column not in names or len(set(names)) < len(names):
            what = "the file" if self.form == "parquet" else "the first line"
            there = ", ".join(ascii(n) if not n.isprintable() else repr(n) for n in names)
            raise BadData(
                f"{self.name}: {what} must name every column once, {self.column!r} among them; it "
                f"has {there or 'nothing'}; --column names another"
            )

    def _table(self, stream: IO[bytes]) -> Iterator[FoundRow]:
        reader = self._cells(stream)
        names = self._header(reader)
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fault = f"no table ({error})"
                if reader.line_num > first:
                    fault += f": a quote in it hides the lines up to {reader.line_num}"
                yield FoundRow(first, fault=f"{fault}; mend it")
                continue
            if cells is None:
                return
            if cells:  # no blank line
                yield self._of_cells(reader.line_num, names, cells)

    def _of_cells(self, line: int, names: list[str], cells: list[str]) -> FoundRow:
        if len(cells) != len(names):
            return FoundRow(line, fault=f"{len(cells)} cells, and {len(names)} columns; mend it")
        for cell in cells:
            try:
                cell.encode()
            except UnicodeEncodeError:
                return FoundRow(line, fault="the row is not UTF-8; convert it")
        columns = dict(zip(names, cells, strict=True))
        return FoundRow(line, columns.pop(self.column), columns)

    # ---- Parquet

    def _parquet(self, meter: BytesRead) -> Iterator[FoundRow]:
        file = _opened(self.path, self.name, meter)
        self._check(file.schema_arrow.names)
        line = 0
        try:
            for batch in file.iter_batches(BATCH):
                for values in _values(batch):
                    line += 1
                    yield self._of_values(line, values)
        except (OSError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise BadData(f"{self.name}: after row {line}: damaged ({told})") from None

    def _of_values(self, line: int, values: dict[str, Any]) -> FoundRow:
        try:
            if odd := [name for name, value in values.items() if isinstance(value, bytearray)]:
                raise BadText(f"{odd[0]!r} is not UTF-8")
            text = text_of(values.pop(self.column), self.column, self.prompts)
        except BadText as error:
            return FoundRow(line, fault=str(error))
        return FoundRow(line, text, values)


READERS: dict[str, Callable[[FileReader, IO[bytes]], Iterator[FoundRow | None]]] = {
    "txt": FileReader._texts,
    WHOLE: FileReader._whole,
    "jsonl": FileReader._json,
    "csv": FileReader._table,
    "tsv": FileReader._table,
}


def _opened(path: str, name: str, meter: BytesRead) -> Any:
    """The Parquet file. Raises `BadData`, `MissingExtra`."""
    from gpt2rt.corpus.streams import MeteredFile

    module = parquet()
    try:
        return module.ParquetFile(MeteredFile(path, meter))
    except (OSError, ValueError) as error:  # Arrow's errors are of these
        raise BadData(f"{name}: no Parquet file ({reason(error).splitlines()[0]})") from None


def _values(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch of Arrow: Python's values where JSON has them, else Arrow's own.

    So times keep their nanoseconds on the way to another Parquet file. A text that is not UTF-8 is
    a `bytearray`, which no value of Arrow is.
    """
    names = batch.schema.names
    columns = [_column(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _column(column: Any) -> list[Any]:
    if not _plain(column.type):
        return list(column)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in column]


def _decoded(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return bytearray()


def _plain(kind: Any) -> bool:
    """Whether JSON has all values of a type of Arrow's."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _plain(kind.value_type)
    if types.is_struct(kind):
        return all(_plain(kind.field(n).type) for n in range(kind.num_fields))
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_boolean)
    return any(test(kind) for test in (*tests, types.is_integer, types.is_floating, types.is_null))
