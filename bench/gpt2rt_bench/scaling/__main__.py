"""More machines: `python -m gpt2rt_bench.scaling measure|compare|memory|costs`.

measure MODEL --output FILE   run `gpt2rt score` with more and more actors on this machine
compare FILE [--plot FILE]    the simulation beside what was measured
memory MODEL                  memory of `gpt2rt tokenize --ray`, and with a file ten times as long
costs                         what a corpus and a stream of requests take, from measured figures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt2rt.bundles import library
from gpt2rt.bundles.writing import write_bytes, write_text
from gpt2rt.errors import Gpt2rtError, missing_extra
from gpt2rt_bench.scaling.memory import COMMANDS, peak

FORMS = (".png", ".svg", ".pdf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except Gpt2rtError as error:
        print(f"gpt2rt: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpt2rt_bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("measure", help="run rounds on this machine")
    measure.add_argument("model", help="a bundle's name or directory")
    measure.add_argument("--output", type=Path, required=True, help="the file of the rounds")
    measure.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    measure.add_argument("--texts", type=int, default=800)
    measure.add_argument("--tokens", type=int, default=64, help="of a text")
    measure.add_argument("--parts", type=int, default=80)
    measure.add_argument("--rounds", type=int, default=3)
    measure.set_defaults(run=_measure)
    compare = commands.add_parser("compare", help="hold the simulation against rounds")
    compare.add_argument("file", type=Path, help="what measure wrote")
    compare.add_argument("--plot", type=Path, help="a picture: .png, .svg or .pdf")
    compare.set_defaults(run=_compare)
    memory = commands.add_parser("memory", help="the memory of a job and of one ten times as long")
    memory.add_argument("model", help="a bundle's name or directory")
    memory.add_argument("--command", default="tokenize", choices=COMMANDS)
    memory.add_argument("--texts", type=int, default=100_000, help="of the shorter file")
    memory.set_defaults(run=_memory)
    costs = commands.add_parser("costs", help="machines for a corpus and for requests")
    costs.add_argument("--tokens", type=float, default=1e12, help="of the corpus")
    costs.add_argument("--days", type=float, default=7.0, help="for the corpus")
    costs.add_argument("--requests", type=float, default=1e5, help="a second")
    costs.add_argument("--length", type=float, default=64.0, help="new tokens of a request")
    costs.add_argument(
        "--rate", type=float, action="append", help="tokens a second of your machine; repeatable"
    )
    costs.set_defaults(run=_costs)
    return parser


def _measure(given: argparse.Namespace) -> None:
    from gpt2rt_bench.scaling.measure import ScalingPlan, measure

    plan = ScalingPlan(
        library.find(given.model),
        given.actors,
        given.texts,
        given.tokens,
        given.parts,
        given.rounds,
    )
    found = measure(plan, lambda line: print(line, file=sys.stderr, flush=True))
    write_text(given.output, found.to_json())


def _compare(given: argparse.Namespace) -> None:
    from gpt2rt_bench.scaling.measured import MeasuredScaling

    try:
        from gpt2rt_bench.scaling.prediction import predicted
    except ImportError as error:
        raise missing_extra("bench", f"the simulation needs {error.name}") from None
    from gpt2rt_bench.scaling.tables import compared

    measured = MeasuredScaling.read(given.file)
    found = predicted(measured, sorted(measured.actors))
    print(compared(measured, found))
    if given.plot is not None:
        if given.plot.suffix not in FORMS:
            raise Gpt2rtError(f"{given.plot}: a picture is {', '.join(FORMS)}")
        try:
            from gpt2rt_bench.scaling.picture import draw
        except ImportError as error:
            raise missing_extra("bench", f"--plot needs {error.name}") from None
        write_bytes(given.plot, draw(measured, found, given.plot.suffix[1:]))


def _memory(given: argparse.Namespace) -> None:
    for texts in (given.texts, 10 * given.texts):
        print(peak(given.model, given.command, texts), flush=True)


def _costs(given: argparse.Namespace) -> None:
    from gpt2rt_bench.scaling.tables import corpus_costs, serving_costs

    print(corpus_costs(given.tokens, given.days, given.rate or ()))
    print()
    print(serving_costs(given.requests, given.length, given.rate or ()))


if __name__ == "__main__":
    sys.exit(main())
