"""Tables on standard output, for a person or for the next program in a pipe; progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table


def show(table: Table) -> None:
    """Print `table` with its cells as they are: no markup, and no line folded in a pipe."""
    from gpt2rt.cli.output.consoles import PlainConsole

    PlainConsole(width=None if sys.stdout.isatty() else 1000).print(table)


def quoted(text: str) -> str:
    """Text in quotes, so that spaces show, with control characters escaped."""
    return "".join(c if c.isprintable() or c == " " else json.dumps(c)[1:-1] for c in text).join(
        '""'
    )


class Bar:
    """A progress bar, where standard error is a terminal.

    Where results are `printed` meanwhile, there is none beside them on the same terminal.
    """

    def __init__(self, title: str, total: Callable[[], int | None], printed: bool) -> None:
        self._title, self._total = title, total
        self._shown = sys.stderr.isatty() and not (printed and sys.stdout.isatty())
        self._bar: Progress | None = None
        self._drawn = ExitStack()

    def __enter__(self) -> None:
        if self._shown:
            from rich.progress import TaskProgressColumn, TimeRemainingColumn

            from gpt2rt.cli.output.consoles import progress

            columns = TaskProgressColumn(), TimeRemainingColumn()
            self._bar = self._drawn.enter_context(progress(*columns, transient=True))
            self._bar.add_task(self._title, total=self._total())

    def advance(self, done: int) -> None:
        self.update(advance=done)

    def update(self, **changes: Any) -> None:
        """Change what the bar shows, as `Progress.update` does."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], **changes)

    def __exit__(self, *_: object) -> None:
        self._drawn.close()
