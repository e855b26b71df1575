"""What was measured of `--ray` with different numbers of actors, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gpt2rt.errors import BadData, reason


@dataclass(frozen=True, slots=True)
class MeasuredScaling:
    """Runs of a command over the same texts; times in seconds.

    Attributes:
        machine: what it ran on, in words.
        cores: of that machine.
        model: the name of the bundle.
        command: what was run, without files and numbers of actors.
        tokens: of all texts.
        parts: into which they were cut.
        plain: rounds without Ray by the number of threads, with 1 and with as many as cores; of a
            process, its start left out.
        empty: rounds with one actor over a single text: all that is not work.
        start: of a worker of Ray until it has loaded the model, in processor time.
        actors: rounds by the number of actors.
    """

    machine: str
    cores: int
    model: str
    command: str
    tokens: int
    parts: int
    plain: Mapping[int, tuple[float, ...]]
    empty: tuple[float, ...]
    start: tuple[float, ...]
    actors: Mapping[int, tuple[float, ...]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> MeasuredScaling:
        """What `to_json` wrote. Raises `BadData` for a file that it did not write."""
        try:
            found = json.loads(file.read_text("utf-8"))
            named: dict[str, Any] = {name: found[name] for name in cls.__slots__}
            for name in ("plain", "actors"):
                named[name] = {int(n): _rounds(times) for n, times in named[name].items()}
            for name in ("empty", "start"):
                named[name] = _rounds(named[name])
            made = cls(**named)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadData(f"{file}: no measurement of scaling ({reason(error)})") from None
        if not {1, made.cores} <= set(made.plain):
            raise BadData(f"{file}: no rounds without Ray with 1 and with {made.cores} threads")
        return made

    def seconds(self, actors: int) -> float:
        """The median of the rounds with so many actors."""
        return median(self.actors[actors])


def _rounds(times: Any) -> tuple[float, ...]:
    found = tuple(float(time) for time in times)
    if not found or min(found) <= 0:
        raise ValueError("no times")
    return found
