"""What `gpt2rt bench` says of other libraries: `--peers`, `--make-peers`, `--start-up`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2rt.cli.commands.export import shown_stages
from gpt2rt.cli.input.options import check_extra
from gpt2rt.cli.output import tables
from gpt2rt.cli.output.printing import print_json

if TYPE_CHECKING:
    from gpt2rt_bench.peers import PeerSubject
    from gpt2rt_bench.run import Plan


def make(directory: Path) -> None:
    """Make the peers' environment, and say how it is used."""
    from gpt2rt_bench.peers import environment

    with shown_stages() as progress:
        python = environment.make(directory, progress.stage)
    print(f"{directory}: ready; measure with --peers --peers-python {python}")


def prepare(plan: Plan, python: Path | None, checkpoint: Path | None) -> list[PeerSubject]:
    """The peers that match a plan, converted; says on standard error what is left out.

    `python` None: this one.
    """
    check_extra("peers", ("safetensors",))
    from gpt2rt_bench import peers

    with shown_stages() as progress:
        found, left_out = peers.subjects(
            plan.bundles.values(),
            python or Path(sys.executable),
            checkpoint,
            progress.stage,
            set(plan.providers.values()),
        )
    for line in left_out:
        print(f"gpt2rt: left out: {line}", file=sys.stderr)
    return found


def start_up(plan: Plan, peers: Sequence[PeerSubject], rounds: int, as_json: bool) -> None:
    """Measure and print the time from a process's start to its first token.

    Prompt, threads and provider are those of the plan's first case.
    """
    from rich.progress import TaskProgressColumn, TimeRemainingColumn
    from rich.table import Table

    from gpt2rt.cli.output.consoles import progress
    from gpt2rt_bench import startup
    from gpt2rt_bench.summary import Interval

    case = plan.cases[0]
    length, threads = case.prompt, case.configuration.threads
    provider = plan.providers[case.configuration]
    programs = startup.programs(plan.bundles, peers, length, threads, provider)
    with progress(TaskProgressColumn(), TimeRemainingColumn()) as bars:
        task = bars.add_task("Start", total=len(programs) * (rounds + 1))
        seconds = startup.measure(programs, rounds, lambda done: bars.update(task, advance=done))
    if as_json:
        for name, taken in seconds.items():
            print_json({"name": name, "prompt": length, "seconds": taken})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("program", "first token, s", "interval"):
        table.add_column(title, justify="left" if title == "program" else "right")
    for name, taken in seconds.items():
        figure = Interval.of(taken)
        table.add_row(name, f"{figure.median:.3f}", figure.between("{:.3f}"))
    tables.show(table)
    print(f"Provider {provider}; threads {threads}; prompt of {length} tokens.", file=sys.stderr)
