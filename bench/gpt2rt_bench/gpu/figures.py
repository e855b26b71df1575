"""Figures with what they must reach: as records, and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TITLES = ("figure", "wanted", "measured", "", "reached")
ANSWERS = {True: "yes", False: "NO", None: ""}


@dataclass(frozen=True, slots=True)
class GpuFigure:
    """A figure, and the least that it must be (`at_most`: the most).

    `measured` None: it could not be had, and `note` says why; `wanted` None: nothing is promised;
    `beside`: numbers that explain it, by their names.
    """

    name: str
    measured: float | None
    unit: str
    wanted: float | None = None
    at_most: bool = False
    note: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether it is as wanted; None: not known, or nothing is promised."""
        if self.wanted is None or self.measured is None:
            return None
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def record(self) -> dict[str, Any]:
        """It as a line of JSON."""
        found: dict[str, Any] = {"figure": self.name, "measured": self.measured, "unit": self.unit}
        if self.wanted is not None:
            found |= {"wanted": self.wanted, "at_most": self.at_most, "reached": self.reached}
        return found | ({"note": self.note} if self.note else {}) | dict(self.beside)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of figures, and of items that have none, as lines of aligned columns."""
    rows = [TITLES, *map(_cells, records)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(TITLES))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    if "figure" not in record:
        return record["item"], "", "", record["missing"], ""
    wanted, sign = record.get("wanted"), "<=" if record.get("at_most") else ">="
    reached = ANSWERS[record.get("reached")]
    if wanted is not None and record["measured"] is None:
        reached = "open"
    unit = ", ".join(filter(None, (record["unit"], record.get("note"))))
    limit = "" if wanted is None else f"{sign} {_number(wanted)}"
    return record["figure"], limit, _number(record["measured"]), unit, reached


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
