"""What `gpt2rt bench` says of other libraries: `--peers`, `--make-peers`, `--start-up`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.cli import tables
from gpt2rt.cli.export import shown_stages
from gpt2rt.cli.options import check_extra
from gpt2rt.cli.printing import print_json

if TYPE_CHECKING:
    from gpt2rt_bench.peers import PeerSubject


def make(directory: Path) -> None:
    """Make the peers' environment, and say how it is used."""
    from gpt2rt_bench.peers import environment

    with shown_stages() as progress:
        python = environment.make(directory, progress.stage)
    print(f"{directory}: ready; measure with --peers --peers-python {python}")


def prepare(
    bundles: Iterable[Bundle], python: Path | None, checkpoint: Path | None
) -> list[PeerSubject]:
    """The peers that match the bundles, converted; says on standard error what is left out.

    `python` None: this one.
    """
    check_extra("peers", ("safetensors",))
    from gpt2rt_bench import peers

    with shown_stages() as progress:
        found, left_out = peers.subjects(
            bundles, python or Path(sys.executable), checkpoint, progress.stage
        )
    for line in left_out:
        print(f"gpt2rt: left out: {line}", file=sys.stderr)
    return found


def start_up(
    bundles: Mapping[str, Bundle],
    peers: Sequence[PeerSubject],
    length: int,
    rounds: int,
    threads: int,
    provider: str,
    as_json: bool,
) -> None:
    """Measure and print the time from a process's start to its first token."""
    from rich.progress import TaskProgressColumn, TimeRemainingColumn
    from rich.table import Table

    from gpt2rt.cli.consoles import progress
    from gpt2rt_bench import startup
    from gpt2rt_bench.summary import Interval

    programs = {}
    for name, bundle in bundles.items():
        text, tokens = startup.prompt(bundle, length)
        programs[f"{name}: gpt2rt"] = startup.program(bundle, threads, provider, text)
        for peer in peers:
            if peer.bundle == bundle:
                programs[f"{name}: {peer.name}"] = peer.first_token(threads, tokens)
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
