"""Options of the commands that work on whole corpora, and what they make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from gpt2rt.errors import InvalidSetting

PANEL = "Files"
PART_ROWS = 1000
PROMPT_PART_ROWS = 100  # a prompt takes longer than a text that is scored

PartRows = Annotated[
    int | None,
    typer.Option(
        help="Rows of a part of --output, which is written whole or not at all.",
        show_default=f"{PART_ROWS}; generate {PROMPT_PART_ROWS}",
        rich_help_panel=PANEL,
    ),
]
OutputFiles = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Where the results of --file go: a file that ends in .jsonl, .csv, .tsv or .parquet, "
        "or a directory of parts (`out.parquet/`). A run that was cut short goes on.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Actors of --ray at most. Each loads the model, and takes --threads cores, or a GPU.",
        show_default="as many as the cluster has room for, with one core each",
        rich_help_panel=PANEL,
    ),
]


def check_part_rows(part_rows: int | None, output: object) -> None:
    """Raises `InvalidSetting`."""
    if part_rows is not None and output is None:
        raise InvalidSetting("--part-rows is for --output")
    if part_rows is not None and part_rows < 1:
        raise InvalidSetting(f"--part-rows must be 1 or more, not {part_rows}")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The cluster of --ray, and the most actors."""

    address: str
    actors: int | None


def elsewhere(ray: str | None, actors: int | None, output: object) -> Elsewhere | None:
    """Where a job is done; None: in this process. Raises `InvalidSetting`."""
    if ray is None:
        if actors is not None:
            raise InvalidSetting("--actors is for --ray")
        return None
    if output is None:
        raise InvalidSetting("--ray is for --file with --output")
    return Elsewhere(ray, actors)
