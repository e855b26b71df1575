"""Runs one peer in a process of its own, under the Python that has it installed.

    python run.py PEER convert CHECKPOINT MODEL PRECISION
    python run.py PEER serve MODEL PRECISION THREADS [SETTING=VALUE ...]
    python run.py PEER first MODEL PRECISION THREADS TOKEN...

PEER is a module beside this file. `serve` answers the benchmark's requests, a line of JSON each
(`gpt2rt_bench.protocol`); `first` prints the token after a prompt and ends. Only the standard
library and the peer are needed, neither gpt2rt nor its exporter, and this directory is the only one
of the project on the path: its names must not be those of libraries.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# At the end, so that no file of ours stands before a library.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from protocol import Ready, Respond, serve


def main(peer: str, action: str, *rest: str) -> None:
    module = importlib.import_module(peer)
    if action == "convert":
        checkpoint, model, precision = rest
        module.convert(Path(checkpoint), Path(model), precision)
    elif action == "serve":
        place, precision, threads, *changes = rest
        serve(lambda: load(module, Path(place), precision, int(threads), changes))
    elif action == "first":
        place, precision, threads, *prompt = rest
        _, respond = load(module, Path(place), precision, int(threads), [])
        print(respond([list(map(int, prompt))], 1).tokens[0][0], flush=True)
    else:
        raise SystemExit(f"unknown action {action!r}: convert, serve or first")


def load(
    module: Any, place: Path, precision: str, threads: int, changes: Iterable[str]
) -> tuple[Ready, Respond]:
    """A peer's model, loaded, and the function that answers requests."""
    model = module.MODEL(place, precision, threads, settings(module, changes))
    return model.ready, model.respond


def settings(module: Any, changes: Iterable[str]) -> Any:
    """The module's `SETTINGS` with the values of `name=value` in place of its defaults."""
    defaults, values = module.SETTINGS(), {}
    for change in changes:
        name, _, value = change.partition("=")
        values[name] = type(getattr(defaults, name))(value)
    return module.SETTINGS(**values)


if __name__ == "__main__":
    main(*sys.argv[1:])
