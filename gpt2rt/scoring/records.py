"""Many frozen records made of columns, in half the time that their own constructor takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any, TypeVar

T = TypeVar("T")


def records(kind: type[T], *columns: Sequence[Any]) -> tuple[T, ...]:
    """Records of a frozen dataclass with slots, whose n-th has the n-th value of each column.

    There is a column for each field, in their order, and all have the same length. The class must
    have no `__post_init__`.
    """
    made = tuple(map(kind.__new__, repeat(kind, len(columns[0]))))
    for name, column in zip(kind.__slots__, columns, strict=True):  # type: ignore[attr-defined]
        deque(map(kind.__dict__[name].__set__, made, column), maxlen=0)
    return made
