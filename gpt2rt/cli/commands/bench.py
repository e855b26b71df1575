"""`gpt2rt bench`: reads the options, runs `gpt2rt_bench.run`, prints and writes the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2rt.bundles.paths import path_text
from gpt2rt.cli import completion
from gpt2rt.cli.commands import load
from gpt2rt.cli.commands import peers as beside
from gpt2rt.cli.output import result_files, tables
from gpt2rt.cli.output.printing import print_json
from gpt2rt.cli.output.terminal import escaped
from gpt2rt.errors import InvalidSetting, missing_extra

if TYPE_CHECKING:
    from gpt2rt_bench.machine.hardware import Machine
    from gpt2rt_bench.report import ReportRow

PEERS, SERVERS = "Other libraries", "Servers"
LEAST_STEPS = 2  # that a case may have; a start-up ends at the first

NEEDED = ("psutil", "onnx", "archspec", "gpt2rt_bench")


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundles by name or directory.",
            autocompletion=completion.model_names,
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        list[str],
        typer.Option(
            help="As for generate; web (the page of `gpt2rt web`, in Chromium); or all: every one "
            "that this machine can run. Repeatable.",
            autocompletion=completion.providers,
        ),
    ] = ["cpu"],  # noqa: B006
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Measure every provider that this machine can run, and remember the fastest whose "
            "logits are right: `--provider auto` then takes it.",
        ),
    ] = False,
    prompt: Annotated[list[int], typer.Option(help="Prompt tokens. Repeatable.")] = [64],  # noqa: B006
    batch: Annotated[list[int], typer.Option(help="Prompts side by side. Repeatable.")] = [1],  # noqa: B006
    threads: Annotated[
        list[int],
        typer.Option(help="Threads. Repeatable.", show_default="the physical cores"),
    ] = [],  # noqa: B006
    steps: Annotated[int, typer.Option(help="Tokens after each prompt.")] = 64,
    rounds: Annotated[
        int, typer.Option(help="Rounds over all cases; 6 or more give a 95 % interval.")
    ] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a case.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the machine, versions and table as Markdown.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the figures: .png, .svg or .pdf.", show_default=False),
    ] = None,
    start_up: Annotated[
        bool,
        typer.Option(
            "--start-up", help="Measure from the start of a process to its first token instead."
        ),
    ] = False,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Beside llama.cpp, CTranslate2, OpenVINO and PyTorch with the same weights; on "
            "CUDA beside PyTorch.",
            rich_help_panel=PEERS,
        ),
    ] = False,
    peers_python: Annotated[
        Path | None,
        typer.Option(
            help="The Python that has them.", show_default="this one", rich_help_panel=PEERS
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="What the models were exported from.",
            show_default="where it was",
            rich_help_panel=PEERS,
        ),
    ] = None,
    make_peers: Annotated[
        Path | None,
        typer.Option(
            help="Make an environment with all of them in this directory, and end.",
            show_default=False,
            rich_help_panel=PEERS,
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Measure `gpt2rt serve` under the streams of many clients instead.",
            rich_help_panel=SERVERS,
        ),
    ] = False,
    url: Annotated[
        list[str],
        typer.Option(
            help="Measure the server at this address beside it: any with OpenAI's /v1/completions, "
            "such as llama.cpp's. Repeatable.",
            show_default=False,
            rich_help_panel=SERVERS,
        ),
    ] = [],  # noqa: B006
    clients: Annotated[
        int, typer.Option(help="Clients that stream at a time.", rich_help_panel=SERVERS)
    ] = 32,
    long_every: Annotated[
        float,
        typer.Option(
            help="Seconds from one prompt of 900 tokens to the next, where they are sent, too.",
            rich_help_panel=SERVERS,
        ),
    ] = 1.0,
) -> None:
    """Measure time to the first token and per token, memory and bandwidth, side by side.

    Every model is loaded in a process of its own, once for each provider and number of threads, and
    all are measured in turn, round after round, after one round that is not counted. `of
    bandwidth` holds the bytes that a decode step reads against the fastest read measured here.

    Examples:

      gpt2rt bench 117M-fp32 117M-int8

      gpt2rt bench 117M-int8 --prompt 64 --prompt 512 --batch 1 --batch 8 --json

      gpt2rt bench 117M-int8 --threads 1 --threads 2 --report bench.md --plot bench.png

      gpt2rt bench 117M-fp16 --provider cuda --provider cpu

      gpt2rt bench 117M-int8 --provider all

      gpt2rt bench 117M-int8 --choose

      gpt2rt bench 117M-int8 --provider cpu --provider web

      gpt2rt bench --make-peers peers-env

      gpt2rt bench 117M-int8 --peers --peers-python peers-env/bin/python

      gpt2rt bench 117M-int8 --start-up

      gpt2rt bench 117M-int8 --serve --url http://127.0.0.1:8080
    """
    if make_peers is not None:
        beside.make(make_peers)
        return
    if not models:
        raise InvalidSetting("name at least one model to measure")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise missing_extra("bench", f"benchmarks need {', '.join(missing)}")
    from gpt2rt_bench.machine.hardware import Machine
    from gpt2rt_bench.report import markdown
    from gpt2rt_bench.run import planned, run

    if rounds < 1:
        raise InvalidSetting(f"rounds must be 1 or more, not {rounds}")
    if serve or start_up:
        mode = "--serve" if serve else "--start-up"
        _check_single(mode, provider, prompt, batch, threads, report or plot)
    if serve:
        load.bench(
            models,
            _bar,
            as_json,
            urls=url,
            clients=clients,
            long_every=long_every,
            steps=steps,
            rounds=rounds,
            threads=next(iter(threads), None),
            provider=provider[0],
        )
        return
    if choose:
        _choose(models, next(iter(threads), None), rounds, as_json)
        return
    _check_files(report, plot)
    plan = planned(
        models,
        providers=provider,
        prompts=prompt,
        batches=batch,
        threads=threads,
        steps=LEAST_STEPS if start_up else steps,
    )
    for reason in plan.left_out:
        print(f"gpt2rt: left out: {reason}", file=sys.stderr)
    others = beside.prepare(plan, peers_python, checkpoint) if peers else []
    if start_up:
        beside.start_up(plan, others, rounds, as_json)
        return
    plan, machine = plan.with_peers(others), Machine.here()
    with _bar(plan.advances(rounds)) as advance:
        rows = run(plan, rounds, advance)
    _print(rows, machine, as_json)
    if report is not None:
        result_files.write(
            report, markdown(rows, machine, [*map(path_text, sys.argv[1:])]).encode()
        )
    if plot is not None:
        from gpt2rt_bench.plot import draw

        result_files.write(plot, draw(rows, machine, plot.suffix[1:]))


def _choose(models: Sequence[str], threads: int | None, rounds: int, as_json: bool) -> None:
    """Choose a provider for each model, and tell what was measured."""
    from gpt2rt_bench.choose import choose, plan_of
    from gpt2rt_bench.machine.hardware import Machine

    for model in models:
        plan = plan_of(model, threads)
        with _bar(plan.advances(rounds) + len(plan.providers)) as advance:
            found = choose(plan, rounds, advance)
        for reason in found.left_out:
            print(escaped(f"gpt2rt: left out: {reason}"), file=sys.stderr)
        _print(found.rows, Machine.here(), as_json)
        chosen = f"{model}: --provider auto takes {found.choice.provider} from now on"
        print(escaped(f"gpt2rt: {chosen}"), file=sys.stderr)


def _check_files(report: Path | None, plot: Path | None) -> None:
    """Raises `Gpt2rtError` for a file that could not be written, before any work is done."""
    result_files.check(report)
    if plot is None:
        return
    if find_spec("matplotlib") is None:
        raise missing_extra("bench", "--plot needs matplotlib")
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise InvalidSetting(f"{plot}: a plot is .png, .svg or .pdf")
    result_files.check(plot)


def _check_single(
    mode: str,
    provider: Sequence[str],
    prompt: Sequence[int],
    batch: Sequence[int],
    threads: Sequence[int],
    file: Path | None,
) -> None:
    """Raises `InvalidSetting` for what `--serve` or `--start-up` would have to leave out."""
    many = {"--provider": provider, "--prompt": prompt, "--threads": threads}
    odd = [name for name, values in many.items() if len(values) > 1]
    if odd:
        raise InvalidSetting(f"{mode} measures one {odd[0]} at a time")
    if list(batch) != [1] or file is not None:
        raise InvalidSetting(f"{mode} has no --batch, no --report and no --plot")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error; yields a function to call with the title of each step."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from gpt2rt.cli.output.consoles import progress

    with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        task = bars.add_task("", total=total)
        begun = 0

        def advance(what: str) -> None:
            nonlocal begun
            bars.update(task, description=what, completed=begun)
            begun += 1

        yield advance
        bars.update(task, completed=total)


def _print(rows: Sequence[ReportRow], machine: Machine, as_json: bool) -> None:
    """Print the table, or a line of JSON a case; notes on it go to standard error."""
    from rich.table import Table

    from gpt2rt_bench.report import TEXTS, TITLES, columns, notes, read_speeds, shared_settings

    if as_json:
        for row in rows:
            print_json(row.record())
        return
    table = Table(box=None, pad_edge=False)
    shown = columns(rows)
    for place in shown:
        table.add_column(TITLES[place], justify="left" if TITLES[place] in TEXTS else "right")
    for row in rows:
        cells = row.cells()
        table.add_row(*(cells[place] for place in shown))
    tables.show(table)
    for line in (shared_settings(rows), read_speeds(rows), *notes(rows, machine)):
        print(f"{line[0].upper()}{line[1:]}.", file=sys.stderr)
