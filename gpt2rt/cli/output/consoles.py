"""Rich's consoles and progress bars, with every text as it is: no markup, no control characters.

Imported only where something is drawn, since Rich takes its time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.segment import Segment

from gpt2rt.cli.output.terminal import diverted, escaped, unguarded


class PlainConsole(Console):
    """A console that shows what is in a text, and obeys only Rich's own colours and movements."""

    def __init__(
        self, *, stderr: bool = False, stream: TextIO | None = None, **settings: Any
    ) -> None:
        """Writes to `stream`, else to standard error or output as they are at that time."""
        self._stream = stream
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **settings)

    @property
    def file(self) -> IO[str]:
        return unguarded(self._stream or (sys.stderr if self.stderr else sys.stdout))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._stream = cast(TextIO, new)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        guarded = self.stderr or self.is_terminal
        for segment in super().render(renderable, options):
            if guarded and not segment.control:
                segment = segment._replace(text=escaped(segment.text, keep="\n"))
            yield segment


@contextmanager
def progress(
    *columns: ProgressColumn, shown: bool = True, transient: bool = False
) -> Iterator[Progress]:
    """Bars on standard error: a title, a bar and `columns`; none but on a terminal.

    What is printed on a terminal meanwhile stands above them.
    """
    console = PlainConsole(stderr=True)
    shown = shown and console.is_terminal
    title = TextColumn("{task.description}", markup=False)
    bars = Progress(
        title,
        BarColumn(),
        *columns,
        console=console,
        transient=transient,
        disable=not shown,
        redirect_stdout=False,  # Rich would take escapes in what is printed for colours
        redirect_stderr=False,
    )
    with ExitStack() as stack:
        stack.enter_context(bars)
        if shown:
            for stream in (sys.stdout, sys.stderr):
                above = FileProxy(console, unguarded(stream))
                stack.enter_context(diverted(stream, cast(TextIO, above)))
        yield bars
