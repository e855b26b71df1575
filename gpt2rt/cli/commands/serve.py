"""`gpt2rt serve`: models behind HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2rt.bundles import library
from gpt2rt.bundles.paths import path_text
from gpt2rt.cli import completion
from gpt2rt.cli.input import opening, options
from gpt2rt.cli.input.fetch import fetch
from gpt2rt.cli.input.ray_option import Ray
from gpt2rt.errors import InvalidSetting, missing_extra

if TYPE_CHECKING:
    from gpt2rt.serving.settings import ServeSettings

KEY = "GPT2RT_API_KEY"
NEEDED = ("fastapi", "uvicorn", "httptools", "prometheus_client", "jinja2")
ACCESS, LIMITS, CLUSTER = "Access", "Limits", "Cluster"


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
    ray: Ray = None,
    replicas: Annotated[
        str,
        typer.Option(
            help="Replicas with --ray: a number, or LEAST..MOST, of which there are as many as "
            "requests need.",
            rich_help_panel=CLUSTER,
        ),
    ] = "1",
    sessions: Annotated[
        bool,
        typer.Option(
            "--sessions",
            help="With --ray: requests with the same X-Session-Id go to the same replica, which "
            "remembers what they share.",
            rich_help_panel=CLUSTER,
        ),
    ] = False,
    write_config: Annotated[
        Path | None,
        typer.Option(
            help="With --ray: only write a file of these settings for Ray's `serve deploy`.",
            rich_help_panel=CLUSTER,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve models by HTTP, with OpenAI's API, scores, vectors and a page to play with.

    The page is at the address that is printed. SIGTERM or Ctrl-C lets running requests finish.

    Examples:

      gpt2rt serve

      gpt2rt serve 117M-int8 my-fine-tune --on-demand --memory 2000

      gpt2rt serve 117M --host 0.0.0.0 --api-key-file keys.txt

      gpt2rt serve 117M-int8 --ray --replicas 4
    """
    check_extra()
    from gpt2rt.serving.server import serve
    from gpt2rt.serving.settings import ServeSettings

    for name in models or ():
        fetch(name)
    settings = ServeSettings(
        models=tuple(models or ()) if ray is None else _absolute(models or ()),
        on_demand=on_demand,
        host=host,
        port=port,
        keys=keys(api_key, api_key_file if write_config is None else None),
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
    if ray is None:
        if replicas != "1" or sessions or write_config is not None:
            raise InvalidSetting("--replicas, --sessions and --write-config go with --ray")
        _tell_default(settings)
        serve(settings, sys.stdout if access_log else None, tell)
    elif write_config is not None:
        _write_config(write_config, settings, replicas, sessions, access_log, api_key_file)
    else:
        _serve_on(ray, settings, replicas, sessions, access_log)


def _tell_default(settings: ServeSettings) -> None:
    """Say what is served where no model is named."""
    if not settings.models:
        opening.tell_of(library.default())


def _serve_on(
    address: str, settings: ServeSettings, replicas: str, sessions: bool, access_log: bool
) -> None:
    """Serve in replicas on a cluster."""
    from gpt2rt.cluster import LOCAL, joined, resources
    from gpt2rt.serving.replicas import Replicas, counts, fitted, listening, local_cores

    least, most = counts(replicas)
    _tell_default(settings)
    cores = None
    if address == LOCAL:
        for name in settings.models:
            library.find(name)  # told before a cluster starts
        settings, cores = listening(settings), local_cores(settings, most)
    with joined(address, cpus=cores):
        from gpt2rt.serving.ray_serve import run

        told, gpus = fitted(settings, most, resources("CPU"), resources("GPU"))
        run(Replicas(told, least, most, gpus, sessions, access_log), tell)


def _write_config(
    file: Path,
    settings: ServeSettings,
    replicas: str,
    sessions: bool,
    access_log: bool,
    api_key_file: Path | None,
) -> None:
    """Write what `serve deploy` reads; the nodes are taken to be as this machine."""
    if find_spec("yaml") is None:
        raise missing_extra("ray", "--write-config needs PyYAML")
    import yaml

    from gpt2rt.cli.output.result_files import write
    from gpt2rt.serving.replicas import Replicas, counts, fitted, local_cores

    least, most = counts(replicas)
    cores, gpus = float(local_cores(settings, most)), float(settings.provider == "cuda")
    told, each = fitted(settings, most, (cores, cores), (gpus, gpus))
    keys_at = None if api_key_file is None else str(api_key_file.absolute())
    found = Replicas(told, least, most, each, sessions, access_log, keys_at)
    write(file, yaml.safe_dump(found.config(), sort_keys=False, allow_unicode=True).encode())
    tell(f"{path_text(file)} is for `serve deploy`")


def tell(line: str) -> None:
    """Tell a person, on standard error."""
    print(f"gpt2rt: {line}", file=sys.stderr, flush=True)


def _absolute(models: Sequence[str]) -> tuple[str, ...]:
    """The models with whole paths of those that are directories: replicas run elsewhere."""
    return tuple(str(Path(name).absolute()) if Path(name).is_dir() else name for name in models)


def check_extra() -> None:
    """Raises `MissingExtra` naming the modules that are not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise missing_extra("serve", f"`gpt2rt serve` needs {', '.join(missing)}")


def keys(given: list[str], file: Path | None) -> tuple[str, ...]:
    """All keys: those of the command line, of the file and of the environment.

    Raises `InvalidSetting` for a file that cannot be read or holds none.
    """
    from gpt2rt.serving.settings import keys_in

    found = [*given, *filter(None, [os.environ.get(KEY)])]
    return (*found, *(keys_in(file) if file is not None else ()))
