"""`gpt2rt doctor`: what this machine can do, and what is missing. Found out by `gpt2rt_bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2rt.cli import completion
from gpt2rt.cli.output import tables
from gpt2rt.cli.output.printing import print_json

MARKS = {"good": "ok", "note": "note", "bad": "BAD"}


def doctor(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to load, by name or directory: where each runs, and why it is slow.",
            autocompletion=completion.model_names,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what this machine can do: processor, providers, CUDA, models, and what to install.

    Each provider of the installed ONNX Runtime is really opened. The exit code is 1 where something
    is BAD: broken, and to be mended. What is slow, or optional and missing, is a note.

    Examples:

      gpt2rt doctor

      gpt2rt doctor 117M-fp16

      gpt2rt doctor --json
    """
    from rich.table import Table

    from gpt2rt_bench.machine.doctor import diagnose

    found = diagnose(models or ())
    if as_json:
        print_json(found.as_dict())
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in found.findings:
            remedy = "" if finding.remedy is None else f"\n-> {finding.remedy}"
            table.add_row(finding.subject, MARKS[finding.state], f"{finding.found}{remedy}")
        tables.show(table)
    if found.bad:
        raise typer.Exit(1)
