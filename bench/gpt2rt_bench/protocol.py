"""The protocol of a measurement: the worker's side, one line of JSON a message.

A worker is a process with one model in one configuration. It writes `{"ready": Ready}` or
`{"error": "one line"}`, then answers every request `{"prompts": [[ids], ...], "steps": n}` with an
`Answer`, until its input ends. The parent's side is `gpt2rt_bench.subject`.

Only the standard library is used here: the Python of a peer may have neither NumPy nor gpt2rt.
All times are milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

Tokens = list[int]


@dataclass
class Ready:
    """A loaded model.

    `provider` is the one that computes; `versions`: library -> version; `notes`: sentences for the
    reader of the figures; `kernels`: the instruction set of gpt2rt's own kernels, empty where
    others compute. `serve` fills in `load_ms`, the time of loading with imports, and `peak_bytes`,
    the largest resident memory.
    """

    provider: str
    precision: str
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    kernels: str = ""
    load_ms: float = 0.0
    peak_bytes: int | None = None


@dataclass
class Answer:
    """The times and tokens of a request.

    `prefill_ms`: until the first token of every row is chosen; `step_ms`: the `steps - 1` decode
    steps after it, each with its choice (their mean, repeated, where a library cannot time each);
    `tokens`: `steps` greedy ids a row; `shares`: milliseconds by their use, where known.
    `peak_bytes`, the largest resident memory of the process since the request came (or since its
    start, where the system cannot reset the count), is filled in by `serve` where it is not known
    better.
    """

    prefill_ms: float
    step_ms: list[float]
    tokens: list[Tokens]
    shares: dict[str, float] | None = None
    peak_bytes: int | None = None


Respond = Callable[[list[Tokens], int], Answer]


def serve(load: Callable[[], tuple[Ready, Respond]]) -> None:
    """Load, then answer requests from standard input until it ends.

    Whatever else is printed in this process, C libraries included, goes to standard error.
    After an exception, which it reports, the process ends with exit code 1.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def send(message: dict[str, object]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        try:
            with contextlib.suppress(KeyboardInterrupt):
                began = time.perf_counter()
                ready, respond = load()
                ready.load_ms = (time.perf_counter() - began) * 1e3
                ready.peak_bytes = peak_bytes()
                send({"ready": asdict(ready)})
                for line in sys.stdin:
                    request = json.loads(line)
                    forget_peak()
                    answer = respond(request["prompts"], request["steps"])
                    answer.peak_bytes = answer.peak_bytes or peak_bytes()
                    send(asdict(answer))
        except Exception as error:
            send({"error": one_line(error)})
            sys.exit(1)


def greedy(
    prompts: Sequence[Tokens],
    steps: int,
    prefill: Callable[[Sequence[Tokens]], Tokens],
    step: Callable[[Tokens], Tokens],
) -> Answer:
    """The timed loop of a library that decodes step by step.

    `prefill` reads the prompts from an empty past and returns the most likely token of each row;
    `step` takes the last tokens, one a row, and returns the next ones.
    """
    marks = [time.perf_counter()]
    chosen = [prefill(prompts)]
    marks.append(time.perf_counter())
    for _ in range(steps - 1):
        chosen.append(step(chosen[-1]))
        marks.append(time.perf_counter())
    prefill_ms, *step_ms = ((b - a) * 1e3 for a, b in pairwise(marks))
    return Answer(prefill_ms, step_ms, [list(row) for row in zip(*chosen, strict=True)])


def peak_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system has no count."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        # Not getrusage: that remembers the memory of the process that started this one.
        found = [line for line in status if line.startswith("VmHWM:")]
        if found:
            return int(found[0].split()[1]) << 10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def forget_peak() -> None:
    """Count the largest resident memory from now on, where the system can do that."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def one_line(error: BaseException) -> str:
    """The first line of an exception, after its type where it is not gpt2rt's own."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    plain = type(error).__module__.startswith("gpt2rt")
    return first if plain and first else f"{type(error).__name__}: {first}".rstrip(": ")
