"""Measures every figure that CUDA must reach, in less than five minutes.

A line of JSON for each is printed, and written to a file, as it is known; a table ends it. An item
that fails, hangs or finds no time left is named, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from gpt2rt_bench.gpu.context import Context
from gpt2rt_bench.gpu.figures import table
from gpt2rt_bench.gpu.item import ITEMS, GpuItem
from gpt2rt_bench.gpu.random_bundle import fill
from gpt2rt_bench.worker import runtime_version

WHOLE = 275.0  # seconds of all
CARD = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")

Record = dict[str, Any]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("gpt2rt_bench.gpu", description=__doc__)
    parser.add_argument(
        "--graphs", type=Path, required=True, help="what gpt2rt_bench.gpu.prepare wrote"
    )
    parser.add_argument("--peers-python", help="the Python that has PyTorch, to measure beside")
    parser.add_argument("--output", type=Path, help="write the lines to this file, too")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU provider")
    parser.add_argument("--item", action="append", choices=[*ITEMS], help="only this; repeatable")
    return parser.parse_args()


def main() -> None:
    given, began = options(), time.monotonic()
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as work, open_output(given.output) as output:
        os.environ.setdefault("GPT2RT_HOME", str(Path(work) / "home"))
        small, large = (str(Path(work) / size) for size in ("small", "large"))
        c = Context(small, large, given.peers_python, given.dry)
        for record in measured(c, given.item or list(ITEMS), given.graphs, began):
            line = json.dumps({**record, "at_s": round(time.monotonic() - began, 1)})
            for file in filter(None, (sys.stdout, output)):
                print(line, file=file, flush=True)
            records.append(record)
    print(table([record for record in records if "machine" not in record]), file=sys.stderr)


def open_output(path: Path | None) -> IO[str]:
    return open(os.devnull if path is None else path, "w", encoding="utf-8")


def measured(c: Context, names: list[str], graphs: Path, began: float) -> Iterator[Record]:
    """The machine, then the records of each item in turn."""
    yield {"machine": machine(), "versions": runtime_version(), "python": sys.version.split()[0]}
    fill(graphs / "small", Path(c.small))
    large = threading.Thread(target=fill, args=(graphs / "large", Path(c.large)))
    large.start()
    for name in names:
        item = ITEMS[name]
        if item.large:
            large.join()
        left = WHOLE - (time.monotonic() - began)
        if left < item.least:
            yield {"item": name, "missing": f"no time: {max(0, left):.0f} s are left"}
            continue
        for record in run(name, item, c, min(left, item.limit)):
            yield {"item": name, **record}
    large.join()


def run(name: str, item: GpuItem, c: Context, limit: float) -> Iterator[Record]:
    """The records of an item, which is ended with all its processes after `limit` seconds."""
    command = [sys.executable, "-m", "gpt2rt_bench.gpu.item", name, json.dumps(asdict(c))]
    late = threading.Event()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
    ) as process:

        def end() -> None:
            late.set()
            stop(process)

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
            code = process.wait()
        finally:
            timer.cancel()
            stop(process)
    if late.is_set():
        yield {"missing": f"not done within {limit:.0f} s"}
    elif code < 0:
        yield {"missing": f"ended by {signal.Signals(-code).name}"}


def stop(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def machine() -> str:
    """The device, by NVIDIA's driver; empty where there is none."""
    with suppress(OSError):
        return subprocess.run(CARD, capture_output=True, text=True, check=False).stdout.strip()
    return ""


if __name__ == "__main__":
    main()
