"""Records as bytes: JSON lines, CSV, TSV, text and Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2rt.corpus.jobs import Kind


@dataclass(frozen=True, slots=True)
class Table:
    """The form of an output and its columns.

    Attributes:
        form: `jsonl`, `csv`, `tsv`, `txt` or `parquet`.
        columns: the columns of results.
        carried: the columns carried through from the input, with their Arrow types (None: text);
            None: they are one column `input` of JSON.
        compression: `gz`, `bz2`, `xz`, `zst`, or nothing.
    """

    form: str
    columns: Mapping[str, Kind]
    carried: Mapping[str, Any] | None = None
    compression: str = ""
    line: str | None = field(default=None)
