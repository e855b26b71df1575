"""What long work tells of its stages; who shows them, and how, is the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Shows the stages of an export or a verification."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """A stage begins (and the one before ends); returns what is told of its steps."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        return lambda done: None
