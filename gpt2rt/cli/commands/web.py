"""`gpt2rt web`: a static page that runs a bundle in the browser, by the package `gpt2rt_export`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gpt2rt.bundles import library
from gpt2rt.cli import completion
from gpt2rt.cli.commands.download import bars
from gpt2rt.cli.output.terminal import escaped
from gpt2rt.errors import missing_extra

NEEDED = ("onnx", "pydantic", "filelock", "httpx2", "gpt2rt_export")


def web(
    model: Annotated[
        str,
        typer.Argument(help="A bundle's name or directory.", autocompletion=completion.model_names),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="The file of onnxruntime-web that `npm pack` makes.",
            show_default="fetched from npm's registry, once",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier page.")] = False,
    serve: Annotated[
        int | None,
        typer.Option(
            help="Then serve the folder at this port of this machine, until Ctrl-C.",
            metavar="PORT",
            min=0,
            max=65535,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a page that runs a model in the browser: a folder for any host of static files.

    Who opens the page needs nothing else, and nothing that they type leaves their machine. It
    computes on their GPU, by WebGPU, else on their processor. Models in int8 suit both; int4 needs
    a GPU; fp16 and fp32 work on processors.

    Examples:

      gpt2rt web demo --output page --serve 8000

      gpt2rt web 117M-int8 --output page --force
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise missing_extra("web", f"pages for the browser need {', '.join(missing)}")
    from gpt2rt_export.fetch.network import Network
    from gpt2rt_export.web import site
    from gpt2rt_export.web.runtime import runtime as package_of

    bundle, place = library.find(model), output.resolve()
    site.check(bundle)
    with bars() as progress:
        package = package_of(runtime, Network.chosen(), progress)
    if site.write(bundle, place, package, force=force):
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        print(escaped(f"{output}: {bundle.name} as a page, {size / 1e6:,.1f} MB"))
    else:
        print(escaped(f"{output}: has this page of {bundle.name} already; --force writes it anew"))
    if serve is None:
        print(escaped(f"Look at it: gpt2rt web {model} --output {output} --serve 8000"))
    else:
        _serve(place, serve)


def _serve(directory: Path, port: int) -> None:
    from gpt2rt_export.web.hosting import server, url

    with server(directory, port) as running:
        print(f"Open {url(running)} in a browser; Ctrl-C ends it", flush=True)
        running.serve_forever()
