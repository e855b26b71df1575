"""What `gpt2rt bench --serve` does: measures servers under load, and prints their figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from gpt2rt.bundles import library
from gpt2rt.cli.commands import serve
from gpt2rt.cli.output import tables
from gpt2rt.cli.output.printing import print_json
from gpt2rt.errors import InvalidSetting

Bar = Callable[[int], AbstractContextManager[Callable[[str], None]]]


def bench(models: Sequence[str], bar: Bar, as_json: bool, **settings: Any) -> None:
    """Measure servers of a model and print a table, or a line of JSON for each server.

    `settings` are those of `ServingPlan`. Raises `InvalidSetting`.
    """
    from rich.table import Table

    from gpt2rt_bench.serving import report
    from gpt2rt_bench.serving.measure import ServingPlan, measure

    serve.check_extra()
    if len(models) > 1:
        raise InvalidSetting("--serve measures one model at a time")
    plan = ServingPlan(library.find(models[0]), **settings)
    with bar(plan.advances) as advance:
        found = report.records(measure(plan, advance))
    if as_json:
        for record in found:
            print_json(record)
        return
    shown = Table(box=None, pad_edge=False)
    for title in ("", *(record["server"] for record in found)):
        shown.add_column(title, justify="right" if title else "left")
    for row in report.table(found):
        shown.add_row(*row)
    tables.show(shown)
    print(
        f"Model {plan.bundle.name}; {plan.clients} clients; {plan.steps} tokens after each prompt; "
        f"a long prompt every {plan.long_every:g} s; {plan.rounds} rounds.",
        file=sys.stderr,
    )
