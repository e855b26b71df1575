"""`gpt2rt serve`: models behind HTTP."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gpt2rt.bundles import library
from gpt2rt.cli import completion, options
from gpt2rt.cli.fetch import fetch
from gpt2rt.errors import InvalidSetting, missing_extra, reason

KEY = "GPT2RT_API_KEY"
NEEDED = ("fastapi", "uvicorn", "httptools", "prometheus_client", "jinja2")
ACCESS, LIMITS = "Access", "Limits"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names or directories of bundles; the first answers requests that name no model. "
            "Without any: as `gpt2rt generate` without --model.",
            show_default=False,
            autocompletion=completion.model_names,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: any that is free.")] = 8000,
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="Load a model when it is first asked for.")
    ] = False,
    api_key: Annotated[
        list[str],
        typer.Option(
            help="A key of which clients have to show one. Repeatable. Others on this machine can "
            f"read a command's options: rather --api-key-file, or ${KEY}.",
            rich_help_panel=ACCESS,
            show_default=False,
        ),
    ] = [],  # noqa: B006
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file with a key a line.", rich_help_panel=ACCESS, show_default=False),
    ] = None,
    access_log: Annotated[
        bool,
        typer.Option(
            help="Print a line of JSON for each request on standard output.",
            rich_help_panel=ACCESS,
        ),
    ] = True,
    log_prompts: Annotated[
        bool,
        typer.Option(
            "--log-prompts", help="Put what clients send into that line.", rich_help_panel=ACCESS
        ),
    ] = False,
    metrics: Annotated[
        bool, typer.Option(help="Whether /metrics answers Prometheus.", rich_help_panel=ACCESS)
    ] = True,
    slots: Annotated[
        int, typer.Option(help="Texts continued side by side.", rich_help_panel=LIMITS)
    ] = 32,
    queue: Annotated[
        int,
        typer.Option(
            help="Texts that may wait; more are told to come again.", rich_help_panel=LIMITS
        ),
    ] = 256,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may take.", rich_help_panel=LIMITS)
    ] = 300.0,
    drain: Annotated[
        float,
        typer.Option(
            help="Seconds that requests have to finish after SIGTERM or Ctrl-C.",
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
    memory: Annotated[
        int | None,
        typer.Option(
            help="Megabytes of weights, keys, values and caches. Models that nobody uses make room "
            "for one that is asked for.",
            rich_help_panel=LIMITS,
            show_default="no limit",
        ),
    ] = None,
    body: Annotated[
        int, typer.Option(help="Megabytes of a request, at most.", rich_help_panel=LIMITS)
    ] = 1,
    prefix_cache: options.PrefixCache = options.PREFIX_MEGABYTES,
    threads: options.ThreadCount = None,
    provider: options.Provider = "auto",
) -> None:
    """Serve models by HTTP, with OpenAI's API, scores, vectors and a page to play with.

    The page is at the address that is printed. SIGTERM or Ctrl-C lets running requests finish.

    Examples:

      gpt2rt serve

      gpt2rt serve 117M-int8 my-fine-tune --on-demand --memory 2000

      gpt2rt serve 117M --host 0.0.0.0 --api-key-file keys.txt
    """
    check_extra()
    from gpt2rt.serving.server import serve
    from gpt2rt.serving.settings import ServeSettings

    if not models:
        options.tell_of(library.default())
    for name in models or ():
        fetch(name)
    settings = ServeSettings(
        models=tuple(models or ()),
        on_demand=on_demand,
        host=host,
        port=port,
        keys=keys(api_key, api_key_file),
        threads=threads,
        provider=provider,
        prefix_bytes=prefix_cache << 20,
        slots=slots,
        queue=queue,
        timeout=timeout,
        drain=drain,
        memory=None if memory is None else memory << 20,
        body_bytes=body << 20,
        metrics=metrics,
        log_prompts=log_prompts,
    )
    serve(settings, sys.stdout if access_log else None, tell)


def tell(line: str) -> None:
    """Tell a person, on standard error."""
    print(f"gpt2rt: {line}", file=sys.stderr, flush=True)


def check_extra() -> None:
    """Raises `MissingExtra` naming the modules that are not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise missing_extra("serve", f"`gpt2rt serve` needs {', '.join(missing)}")


def keys(given: list[str], file: Path | None) -> tuple[str, ...]:
    """All keys: those of the command line, of the file and of the environment.

    Raises `InvalidSetting` for a file that cannot be read or holds none.
    """
    found = [*given, *filter(None, [os.environ.get(KEY)])]
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"{file}: {reason(error)}") from None
        if not any(lines):  # an empty file would open the server to all
            raise InvalidSetting(f"{file}: no key in it; write a key a line")
        found += filter(None, lines)
    return tuple(found)
