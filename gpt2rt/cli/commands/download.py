"""`gpt2rt download`: a released checkpoint comes here, by the package `gpt2rt_export`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2rt.bundles import catalog
from gpt2rt.bundles.paths import path_text
from gpt2rt.cli.input.options import check_extra
from gpt2rt.cli.input.typed import decoded_option
from gpt2rt.cli.output.printing import print_json
from gpt2rt.cli.output.terminal import escaped
from gpt2rt.errors import UnknownModel

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NEEDED = ("filelock", "google_crc32c", "httpx2", "socksio")


def download(
    model: Annotated[str, typer.Argument(help="117M, 345M, 762M, 1542M (or 124M, ...).")],
    mirror: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to look first; may be given again. $GPT2RT_MIRRORS, URLs with spaces "
            "between, stands for OpenAI's own locations.",
            callback=decoded_option,
            metavar="URL",
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="An HTTP or SOCKS5 proxy.",
            callback=decoded_option,
            metavar="URL",
            show_default="HTTPS_PROXY, ALL_PROXY, ... of the environment",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Ask nobody: check what is there, say what is missing."),
    ] = False,
    allow_http: Annotated[
        bool,
        typer.Option(
            "--allow-http",
            help="Take files from http: anyone on the way may change what is not known by sha256. "
            "Needless for this machine's own servers.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON, no bars.")] = False,
) -> None:
    """Download one of OpenAI's checkpoints and check every file of it.

    A download that was broken off goes on where it stopped. Files lie in
    $GPT2RT_HOME/checkpoints; `gpt2rt export MODEL` finds them there.

    Examples:

      gpt2rt download 117M

      gpt2rt download 1542M --proxy socks5://127.0.0.1:1080

      gpt2rt download 345M --mirror https://example.org/gpt-2/models

      gpt2rt download 117M --offline
    """
    release = catalog.release(model)
    if release is None:
        raise UnknownModel(f"{model} is embedded: there is nothing to download")
    check_extra("downloading", NEEDED)
    from gpt2rt_export.fetch.download import download
    from gpt2rt_export.fetch.network import Network

    network = Network.chosen(mirror or (), proxy, offline, allow_http)
    directory = catalog.checkpoint_directory(release.name)
    with bars(shown=not as_json) as progress:
        done = download(release, directory, network, progress)
    sizes = {name: (directory / name).stat().st_size for name in catalog.CHECKPOINT_FILES}
    if as_json:
        print_json(
            {
                "model": release.name,
                "directory": path_text(done.directory),
                "bytes": sum(sizes.values()),
                "files": sizes,
                "fetched": list(done.fetched),
                "unpinned": list(release.unpinned),
            }
        )
    else:
        told = f"{release.name}, {sum(sizes.values()) / 1e6:,.1f} MB, all checked"
        print(escaped(f"{done.directory}: {told}"))
        if release.unpinned:
            print(f"By the mirror's own word, as no sha256 is known: {', '.join(release.unpinned)}")


class Bars:
    """Shows a download on standard error: a bar a file, a line for what a person should know."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def bytes_done(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes (None: unknown) of the file `name` have come or been checked."""
        if name in self._tasks:
            self._progress.update(self._tasks[name], completed=done, total=total)
        else:  # what an earlier run left says nothing about the speed of this one
            self._tasks[name] = self._progress.add_task(name, completed=done, total=total)

    def note(self, text: str) -> None:
        """Something that a person would want to know."""
        self._progress.console.print(text, soft_wrap=True)


@contextmanager
def bars(shown: bool = True) -> Iterator[Bars]:
    """Bars with speed and time left on a terminal; elsewhere, or where not `shown`, only notes."""
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from gpt2rt.cli.output.consoles import progress

    columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with progress(*columns, shown=shown) as drawn:
        yield Bars(drawn)
