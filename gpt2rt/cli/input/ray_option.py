"""`--ray`, with the address of a cluster or without: then a cluster of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from gpt2rt.cluster import ADDRESS, LOCAL, check_address


def _checked(address: str | None) -> str | None:
    if address is not None:
        check_address(address)
    return address


Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        callback=_checked,
        help="Work on a cluster of Ray: the one at HOST:PORT, which this machine is a node of, or "
        "without an address one of this machine's cores. Needs the extra ray.",
        show_default=False,
    ),
]


def with_address(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments in which a `--ray` that no address follows has that of `LOCAL`.

    Typer has no options whose value may be left out.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = list(arguments)
    for i in range(end):
        after = arguments[i + 1] if i + 1 < end else ""
        if arguments[i] == "--ray" and not ADDRESS.fullmatch(after):
            found[i] = f"--ray={LOCAL}"
    return found
