"""A progress bar for work on the rows of files."""

from __future__ import annotations

from collections.abc import Callable

from gpt2rt.cli.output.tables import Bar
from gpt2rt.corpus.streams import BytesRead


class RowsBar(Bar):
    """Tells how many rows are done, and how much of the files was read for them.

    Attributes:
        read: the bytes read, which whoever reads the files counts.
        done: the rows that are done.
    """

    def __init__(self, size: Callable[[], int | None], printed: bool) -> None:
        """`size` gives the bytes of all files, None where they are not known."""
        super().__init__("rows", size, printed)
        self.read = BytesRead()
        self.done = 0

    def advance(self, done: int) -> None:
        self.done += done
        self.update(completed=self.read.count, description=f"{self.done:,} rows")
