"""Values of cells on the way from one form to another."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import date, time
from typing import Any

from gpt2rt.corpus.rows import TextRow
from gpt2rt.scoring.score import known
from gpt2rt.text.controls import json_line

INPUT = "input"  # where other columns are that do not stand beside the results
PLACE = ("row", "source", "line")


def plain(value: Any) -> Any:
    """What JSON has for a value of a cell: null for NaN and infinities, base 64 for bytes."""
    if hasattr(value, "as_py"):  # Arrow's
        try:
            value = value.as_py()
        except ValueError:  # nanoseconds, which Python's times do not have
            return str(value)
    if isinstance(value, float):
        return known(value)
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int) else str(value)


def cell(value: Any) -> Any:
    """What a table of text has for a value: numbers and text as they are, others as JSON."""
    value = plain(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return json_line(value).removesuffix("\n")


def text(value: Any) -> str | None:
    """What a column of text has for a value: text as it is, others as JSON, None for none."""
    value = plain(value)
    return value if value is None or isinstance(value, str) else json_line(value).removesuffix("\n")


def nested(row: TextRow, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record behind its place and the other columns, as JSON lines have it."""
    other = {INPUT: plain(row.columns)} if row.columns else {}
    return {"row": row.number, "source": row.source, "line": row.line, **other, **record}
