"""Runs one item in a process of its own: `python -m gpt2rt_bench.gpu.item NAME CONTEXT`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpt2rt_bench.gpu import beside, robust, texts
from gpt2rt_bench.gpu.context import Context, stand_in
from gpt2rt_bench.gpu.figures import GpuFigure
from gpt2rt_bench.protocol import one_line


@dataclass(frozen=True, slots=True)
class GpuItem:
    """Figures that are measured together, for at most `limit` seconds.

    Under `least` seconds it is not begun. `large`: it needs the large model.
    """

    run: Callable[[Context], Iterator[GpuFigure]]
    limit: float
    least: float = 10
    large: bool = False


ITEMS = {
    "check": GpuItem(texts.check, 30),
    "alone": GpuItem(beside.alone, 35),
    "generate": GpuItem(texts.alone, 20),
    "generate_batch": GpuItem(texts.generate, 45),
    "score_batch": GpuItem(texts.score, 25),
    "calls, threads, streams": GpuItem(robust.robust, 35),
    "beside PyTorch": GpuItem(beside.beside, 130, least=30),
    "1558M": GpuItem(beside.large, 60, large=True),
    "XQA": GpuItem(beside.kernels, 25),
}


def main(name: str, context: str) -> None:
    """Print a line of JSON a figure; whatever else is printed goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        c = Context(**json.loads(context))
        if c.dry:
            stand_in()
        try:
            for figure in ITEMS[name].run(c):
                print(json.dumps(figure.record()), file=out, flush=True)
        except Exception as error:
            traceback.print_exc()
            print(json.dumps({"missing": one_line(error)}), file=out, flush=True)
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
