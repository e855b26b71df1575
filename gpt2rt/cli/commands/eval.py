"""`gpt2rt eval`: the tasks of GPT-2's paper. What they are and do is in `gpt2rt_evals`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt2rt import Bundle
from gpt2rt.bundles import catalog, library
from gpt2rt.bundles.paths import path_text
from gpt2rt.cli.input import opening, options
from gpt2rt.cli.output import tables
from gpt2rt.cli.output.printing import print_json
from gpt2rt.errors import BadData, InvalidSetting

if TYPE_CHECKING:
    from gpt2rt_evals.run import TaskResult
    from gpt2rt_evals.task import EvalSettings, EvalTask


@dataclass(frozen=True, slots=True)
class DataSource:
    """A task and the data file that it reads, read."""

    task: EvalTask
    path: Path
    data: Any


def evaluate(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK...", help="As `--list` names them.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A data set's file, or a folder that holds it.", show_default=False),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            "--model",
            "-m",
            help="Bundles to compare, by name or directory: 117M-fp32,117M-int8.",
            show_default="the default model",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first examples.", show_default="all")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Language modelling: tokens a window moves on.", show_default="the context"
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="Examples shown in a prompt.", show_default="5 to translate, 10 nq"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampling, and of the examples shown.")] = 0,
    records: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what is done.", show_default="in the home directory"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON a task and model.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Show tasks and what they read.")] = False,
    special: options.Special = None,
    threads: options.ThreadCount = None,
    provider: options.Provider = "auto",
) -> None:
    """Evaluate bundles on the tasks of GPT-2's paper, beside its own figures.

    A run that was stopped goes on where it was when the command is given again.

    Examples:

      gpt2rt eval --list

      gpt2rt eval lambada --data lambada_test.jsonl --model 117M-int8 --limit 500

      gpt2rt eval wikitext2 ptb --data my-data-sets --models 117M-fp32,117M-int8
    """
    if show:
        _list(as_json)
        return
    from gpt2rt_evals.registry import find
    from gpt2rt_evals.task import EvalSettings

    settings = EvalSettings(limit=limit, stride=stride, shots=shots, seed=seed, special=special)
    wanted = [find(name) for name in dict.fromkeys(tasks or [])]
    if not wanted:
        raise InvalidSetting("name a task; `gpt2rt eval --list` shows them")
    if data is None:
        raise InvalidSetting("--data is needed: the data set's file, or a folder that holds it")
    for task in wanted:
        task.check()
    bundles = _bundles(models)
    sources = [_read(task, data) for task in wanted]
    if models is None:
        opening.tell_of(*bundles.values())
    folder = catalog.home() / "evals" if records is None else records
    results: dict[str, list[TaskResult]] = {}
    for label, bundle in bundles.items():
        results[label] = []
        for result in _results(label, bundle, sources, settings, folder, threads, provider):
            results[label].append(result)
            if as_json:
                body = _record(label, bundle, settings, sources, result)
                print_json(body)
    if not as_json:
        _table(results)


def _bundles(models: str | None) -> dict[str, Bundle]:
    """The bundles asked for, by the names they were asked for."""
    if models is None:
        bundle = library.default()
        return {bundle.name: bundle}
    names = [name.strip() for name in models.split(",")]
    return {path_text(name): library.find(name) for name in names}


def _read(task: EvalTask, place: Path) -> DataSource:
    from gpt2rt_evals.data import find

    path = find(place, task.files)
    try:
        return DataSource(task, path, task.read(path))
    except BadData as error:
        raise BadData(f"{error}; {task.name} reads {task.data}") from None


def _results(
    label: str,
    bundle: Bundle,
    sources: list[DataSource],
    settings: EvalSettings,
    folder: Path,
    threads: int | None,
    provider: str,
) -> Iterator[TaskResult]:
    from gpt2rt import GPT2, Threads
    from gpt2rt_evals.model import BundleModel
    from gpt2rt_evals.run import EvalRun

    model = BundleModel(GPT2(bundle, Threads(threads), provider), settings.special)
    for source in sources:
        run = EvalRun(source.task, source.data, model.identity, settings)
        with _bar(f"{source.task.name}, {label}", source.task.unit) as advance:
            yield run.finish(model, folder, advance)


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; says what is kept where the run is stopped."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from gpt2rt.cli.output.consoles import progress

    with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        bar = bars.add_task(title, total=None)
        at = (0, 0)

        def advance(done: int, total: int) -> None:
            nonlocal at
            at = (done, total)
            bars.update(bar, completed=done, total=total)

        try:
            yield advance
        except KeyboardInterrupt:
            bars.stop()
            print(
                f"gpt2rt: {title}: stopped; {at[0]} of {at[1]} {unit}s are kept, the same "
                "command goes on from there",
                file=sys.stderr,
            )
            raise


def _record(
    label: str,
    bundle: Bundle,
    settings: EvalSettings,
    sources: list[DataSource],
    result: TaskResult,
) -> dict[str, Any]:
    source = next(source for source in sources if source.task is result.task)
    metrics = {
        metric.name: {
            **{name: _finite(value) for name, value in asdict(result.figures[metric.name]).items()},
            "paper": dict(metric.paper),
        }
        for metric in result.task.metrics
    }
    return {
        "task": result.task.name,
        "model": label,
        "precision": bundle.manifest.precision,
        "data": path_text(source.path),
        "examples": len(result.records),
        "settings": asdict(settings),
        "metrics": metrics,
        "interval": "95 %, bootstrap over examples, 1000 draws, seed 0",
        "seconds": round(result.seconds, 3),
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / result.seconds, 1) if result.seconds else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(results: dict[str, list[TaskResult]]) -> None:
    from rich.table import Table

    from gpt2rt_evals.metrics import SIZES

    table = Table(box=None, pad_edge=False)
    for title in ("task", "metric"):
        table.add_column(title)
    for title in (*(f"paper {size}" for size in SIZES), *results):
        table.add_column(title, justify="right")
    for row in zip(*results.values(), strict=True):
        task, count = row[0].task, len(row[0].records)
        for i, metric in enumerate(task.metrics):
            head = (task.title, "")[i > 0]
            given = (_number(metric.paper.get(size)) for size in SIZES)
            found = (result.figures[metric.name] for result in row)
            cells = (f"{_number(f.value)} [{_number(f.low)}, {_number(f.high)}]" for f in found)
            table.add_row(head, metric.name, *given, *cells)
        speeds = (f"{r.tokens / r.seconds:,.0f}" if r.seconds else "" for r in row)
        unit = task.unit if count == 1 else task.unit + "s"
        table.add_row(f"  {count:,} {unit}", "tokens/s", *[""] * len(SIZES), *speeds)
    tables.show(table)
    print("In brackets: 95 % confidence, by bootstrap over the examples (seeded).")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def _list(as_json: bool) -> None:
    from gpt2rt_evals.registry import TASKS

    if as_json:
        for task in TASKS.values():
            names = [metric.name for metric in task.metrics]
            body = {"task": task.name, "title": task.title, "data": task.data, "metrics": names}
            print_json(body)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("task", "what it is", "what --data reads"):
        table.add_column(title, overflow="fold")
    for task in TASKS.values():
        table.add_row(task.name, task.title, task.data)
    tables.show(table)
