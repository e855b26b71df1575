"""What a subject says: the worker's side of a measurement, one JSON line a message.

A subject is a process that holds one model under one configuration. It says `{"ready": Ready}` or
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
    """A model, loaded. `serve` fills in what `load` took: `load_ms`, imports included, and
    `peak_bytes`, the largest resident memory.

    `provider` is what really computes; `versions` maps libraries to theirs; `notes` are sentences
    that belong beside the figures.
    """

    provider: str
    precision: str
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    load_ms: float = 0.0
    peak_bytes: int | None = None


@dataclass
class Answer:
    """`prefill_ms` is the time until the first token of every row is chosen; `step_ms` are the
    `steps - 1` decode steps after it, each with its choice (a mean repeated where a library cannot
    time them one by one); `tokens` are `steps` greedy ids a row.

    `shares` are milliseconds of the request by what they were spent on, where that is known.
    `peak_bytes`, the process's largest resident memory since the request came (so far, where the
    system cannot count anew), is filled in by `serve`.
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
    Ends the process with exit code 1 after an exception, which it tells.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def say(message: dict[str, object]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        try:
            with contextlib.suppress(KeyboardInterrupt):
                began = time.perf_counter()
                ready, respond = load()
                ready.load_ms = (time.perf_counter() - began) * 1e3
                ready.peak_bytes = peak_bytes()
                say({"ready": asdict(ready)})
                for line in sys.stdin:
                    request = json.loads(line)
                    forget_peak()
                    answer = respond(request["prompts"], request["steps"])
                    answer.peak_bytes = peak_bytes()
                    say(asdict(answer))
        except Exception as error:
            say({"error": one_line(error)})
            sys.exit(1)


def greedy(
    prompts: Sequence[Tokens],
    steps: int,
    prefill: Callable[[Sequence[Tokens]], Tokens],
    step: Callable[[Tokens], Tokens],
) -> Answer:
    """The timed loop of a library that decodes step by step.

    `prefill` begins anew with the prompts and returns the best token of each row; `step` takes the
    tokens chosen last, one a row, and returns the next ones.
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
    """Largest resident memory of this process so far; None where the system does not tell."""
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
    """Let the largest resident memory be counted from now on, where the system can do that."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def one_line(error: BaseException) -> str:
    """What went wrong: the exception's first line, its type before it where that says more."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    plain = type(error).__module__.startswith("gpt2rt")
    return first if plain and first else f"{type(error).__name__}: {first}".rstrip(": ")
