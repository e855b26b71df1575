"""What a caller can be shown of long work: the stages of an export, the bytes of a download.

Two protocols, since the two go on differently: stages follow one another, each with steps that only
add up; a download has several files under way at once, and the bytes of one can become fewer again,
where a server begins it anew. `NoProgress` does for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Shows the stages of an export or a verification."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """Begin a stage of `total` steps (None: unknown), which ends the one before.

        Returns a function to call with the number of steps done since its last call.
        """


class DownloadProgress(Protocol):
    """Shows the files of a download."""

    def bytes_done(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes (None: unknown) of the file `name` have come or been checked."""

    def note(self, text: str) -> None:
        """A sentence for the user, such as why a file is fetched again."""


class NoProgress:
    """Shows nothing, of either kind."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        return lambda done: None

    def bytes_done(self, name: str, done: int, total: int | None) -> None:
        pass

    def note(self, text: str) -> None:
        pass
