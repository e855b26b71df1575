"""JSON as the server writes it: in ASCII, and large answers in parts.

Python writes a value without a pause for other threads. So an answer of megabytes is made in a
thread beside the event loop, and in parts, between which the loop can go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

PART = 1000  # values; they are written in less than a millisecond
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def ascii_json(value: Any) -> bytes:
    """The JSON of a small value; raises `ValueError` for NaN and infinity, which JSON has not."""
    return _encoder.encode(value).encode("ascii")


def large_json(value: Any) -> bytes:
    """The JSON of a value of any size, made in parts. Raises as `ascii_json`."""
    return "".join(_parts(value)).encode("ascii")


def _parts(value: Any) -> Iterator[str]:
    if _size(value) <= PART:
        yield _encoder.encode(value)
    elif isinstance(value, Mapping):
        for number, (name, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}{_encoder.encode(name)}:"
            yield from _parts(item)
        yield "}"
    elif _is_flat(value):
        for start in range(0, len(value), PART):
            yield ("," if start else "[") + _encoder.encode(value[start : start + PART])[1:-1]
        yield "]"
    else:
        for number, item in enumerate(value):
            yield "," if number else "["
            yield from _parts(item)
        yield "]"


def _size(value: Any) -> int:
    """About how many numbers and texts are in a value."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return len(value) if _is_flat(value) else sum(map(_size, value))
    return 1


def _is_flat(values: list[Any]) -> bool:
    """Whether there are no lists or objects in a list, whose items are all of a kind."""
    return not values or not isinstance(values[0], list | Mapping)
