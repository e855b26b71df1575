"""Records as bytes: JSON lines, CSV, TSV, text and Parquet; files of them, joined to one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.jobs import Job, Kind, Record
from gpt2rt.corpus.rows import TextRow
from gpt2rt.corpus.streams import BytesRead, arrow, compressing, parquet, reading, sink
from gpt2rt.corpus.values import INPUT, PLACE, cell, nested, text
from gpt2rt.errors import BadData, InvalidSetting
from gpt2rt.text.controls import json_line

Placed = tuple[TextRow, Record]
GROUP_ROWS, GROUP_BYTES = 1 << 16, 1 << 26  # of a row group where Parquet files are joined
ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True, slots=True)
class Table:
    """The form of an output and its columns; can be pickled.

    Attributes:
        form: `jsonl`, `csv`, `tsv`, `txt` or `parquet`.
        columns: the columns of results.
        carried: the columns carried through from the input, with their Arrow types (None: text);
            None: they are one column `input` of JSON.
        compression: `gz`, `bz2`, `xz`, `zst`, or nothing.
        line: the field that is a line of text.
    """

    form: str
    columns: Mapping[str, Kind]
    carried: Mapping[str, Any] | None = None
    compression: str = ""
    line: str | None = None

    @property
    def suffix(self) -> str:
        """How a file's name ends."""
        return f".{self.form}" + (f".{self.compression}" if self.compression else "")

    def write(self, records: Iterable[Placed], file: BinaryIO) -> None:
        """Write all records into a file that is open.

        The same records give the same bytes. Raises `BadData` for rows whose other columns are not
        those of the table, `MissingExtra`.
        """
        if self.form == "parquet":
            self._write_parquet(records, file)
        else:
            with compressing(file, self.compression) as stream:
                for line in self.lines(records):
                    stream.write(line)

    def lines(self, records: Iterable[Placed]) -> Iterator[bytes]:
        """The lines of all records, and before them that of the names; not of Parquet.

        Raises as `write`.
        """
        if self.form in ("csv", "tsv"):
            yield from self._separated(records)
        elif self.form == "jsonl":
            for row, record in records:
                yield json_line(nested(row, record)).encode()
        else:
            for _, record in records:
                yield f"{_plain(record[self.line or ''])}\n".encode("utf-8", "backslashreplace")

    # ---- CSV

    @property
    def _names(self) -> list[str]:
        carried = [INPUT] if self.carried is None else [*self.carried]
        return [*PLACE, *carried, *self.columns]

    def _separated(self, records: Iterable[Placed]) -> Iterator[bytes]:
        """A line of names, then the records, every text in quotes."""
        held = io.StringIO(newline="")
        delimiter = "," if self.form == "csv" else "\t"
        # The writer would leave a carriage return without quotes.
        style: Any = {"lineterminator": "\n", "quoting": csv.QUOTE_NONNUMERIC}
        writer = csv.writer(held, delimiter=delimiter, **style)
        writer.writerow(self._names)
        for row, record in records:
            writer.writerow(map(cell, self._values(row, record)))
            yield held.getvalue().encode("utf-8", "backslashreplace")
            held.seek(0)
            held.truncate()
        yield held.getvalue().encode("utf-8", "backslashreplace")

    def _values(self, row: TextRow, record: Record) -> list[Any]:
        """The cells of a row of the table. Raises `BadData`."""
        place = [row.number, row.source, row.line]
        results = [record.get(name) for name in self.columns]
        if self.carried is None:
            return [*place, dict(row.columns) or None, *results]
        if row.columns.keys() != self.carried.keys():
            raise BadData(
                f"{row.place}: has the columns {_told(row.columns)} beside the text, the first "
                f"file {_told(self.carried)}; write JSON lines, or give files that are alike"
            )
        return [*place, *(row.columns[name] for name in self.carried), *results]

    # ---- Parquet

    def _write_parquet(self, records: Iterable[Placed], file: BinaryIO) -> None:
        pa, module = arrow(".parquet"), parquet()
        schema = self._schema(pa)
        rows = [(row, self._values(row, record)) for row, record in records]
        columns = []
        for nth, field in enumerate(schema):
            values = [values[nth] for _, values in rows]
            inputs = field.name == INPUT and self.carried is None
            if inputs or self.columns.get(field.name) == "any":
                values = [text(value) for value in values]
            try:
                columns.append(pa.array(values, field.type))
            except (ValueError, TypeError) as error:  # Arrow's errors are of these
                raise BadData(
                    f"{rows[0][0].place} and after it: the column {field.name!r} is not of "
                    f"the first file's type, {field.type} ({str(error).splitlines()[0]})"
                ) from None
        table = pa.Table.from_arrays(columns, schema=schema)
        module.write_table(table, sink(file))

    def _schema(self, pa: Any) -> Any:
        kinds = {
            "int": pa.int64(),
            "float": pa.float64(),
            "text": pa.string(),
            "ints": pa.list_(pa.int32()),
            "floats": pa.list_(pa.float32()),
            "any": pa.string(),
        }
        found = {"row": pa.int64(), "source": pa.string(), "line": pa.int64()}
        found |= {name: kind or pa.string() for name, kind in (self.carried or {}).items()}
        if self.carried is None:
            found[INPUT] = pa.string()
        return pa.schema([*found.items(), *((n, kinds[k]) for n, k in self.columns.items())])

    # ---- many files as one

    def join(self, parts: Iterable[Path], file: BinaryIO, compression: str) -> None:
        """Write the records of parts, one after the other, as one file. Raises `BadData`."""
        if self.form == "parquet":
            self._join_parquet(parts, file)
            return
        with compressing(file, compression) as stream:
            for nth, part in enumerate(parts):
                with reading(str(part), self.compression, BytesRead()) as lines:
                    if nth and self.form in ("csv", "tsv"):
                        next(csv_header(lines))
                    copyfileobj(lines, stream)

    def _join_parquet(self, parts: Iterable[Path], file: BinaryIO) -> None:
        pa, module = arrow(".parquet"), parquet()
        with ExitStack() as stack:
            writer = stack.enter_context(module.ParquetWriter(sink(file), self._schema(pa)))
            held: list[Any] = []
            for part in parts:
                held.append(module.read_table(part, partitioning=None))
                if (
                    sum(t.num_rows for t in held) >= GROUP_ROWS
                    or sum(t.nbytes for t in held) >= GROUP_BYTES
                ):
                    writer.write_table(pa.concat_tables(held))
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held))


def csv_header(lines: Any) -> Iterator[bytes]:
    """The lines of the first row of a table, joined; a name may have line breaks."""
    header = b""
    for line in lines:
        header += line
        if header.count(b'"') % 2 == 0:
            yield header
            return


def _plain(value: Any) -> str:
    """A value as a line of text; line breaks in it as --escape reads them."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).translate(ESCAPES)


def _told(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def table_for(job: Job, place: Destination, corpus: Corpus) -> Table:
    """The table of the parts of an output.

    Raises as `table_of` and `Corpus.columns`; `MissingExtra`.
    """
    form, compression = place.form, place.compression
    if form == "parquet" or compression == "zst":
        arrow(f".{compression or form}")
    # A file is compressed when its parts are joined.
    return table_of(job, form, corpus.columns(), "" if place.file else compression)


def table_of(
    job: Job, form: str, carried: Mapping[str, Any] | None, compression: str = ""
) -> Table:
    """The table of a job's records beside the columns `carried` through, as `Table` has them.

    Raises `InvalidSetting` for a form or columns that the job does not allow.
    """
    if form == "txt" and job.line is None:
        raise InvalidSetting(f"`{job.name}` writes JSON lines, CSV, TSV or Parquet, no text")
    columns = job.columns()
    beside = {INPUT: None} if carried is None else carried
    if form not in ("jsonl", "txt") and (both := beside.keys() & {*PLACE, *columns}):
        raise InvalidSetting(
            f"the column {min(both)!r} is one of the results, too; rename it, or write JSON lines"
        )
    carried = None if form in ("jsonl", "txt") else carried
    return Table(form, columns, carried, compression, job.line)
