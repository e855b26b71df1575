"""`gpt2rt pack` and `gpt2rt unpack`: a bundle as one file, there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from gpt2rt.bundles import library, packing
from gpt2rt.bundles.paths import local
from gpt2rt.cli.output.terminal import escaped


def pack(
    bundle: Annotated[str, typer.Argument(help="A bundle's name or directory.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file.", show_default="NAME.gpt2rt, here"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
) -> None:
    """Pack a bundle into one file, for deployment.

    Examples:

      gpt2rt pack demo

      gpt2rt pack 117M-int8 -o gpt2.gpt2rt --force
    """
    found = library.find(bundle)
    file = output or Path(local(found.name) + packing.SUFFIX)
    with _bar("Pack", found.bytes) as advance:
        packing.pack(found, file, force=force, advance=advance)
    print(escaped(f"{file}: {file.stat().st_size / 1e6:,.1f} MB"))


def unpack(
    file: Annotated[Path, typer.Argument(help="A file that `gpt2rt pack` made.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The bundle's directory.", show_default="in the home directory"
        ),
    ] = None,
) -> None:
    """Check a packed bundle and open it, whole or not at all.

    Examples:

      gpt2rt unpack demo-int8.gpt2rt

      gpt2rt unpack demo-int8.gpt2rt -o my-bundle
    """
    size = file.stat().st_size if file.is_file() else 0
    with _bar("Unpack", size) as advance:
        bundle = packing.unpack(file, output, advance=advance)
    told = f"{bundle.bytes / 1e6:,.1f} MB, every file as it was packed"
    print(escaped(f"{bundle.directory}: {told}"))
    shown = bundle.directory.name if output is None else bundle.directory
    print(escaped(f"Try it: gpt2rt generate --model {quote(str(shown))}"))


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import DownloadColumn

    from gpt2rt.cli.output.consoles import progress

    with progress(DownloadColumn()) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.update(task, advance=done)
