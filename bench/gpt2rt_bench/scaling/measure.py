"""Measures `gpt2rt score` on a cluster of this machine, with more and more actors, and without.

Rounds are interleaved, so that other load on the machine affects all alike.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

from gpt2rt import GPT2, Bundle
from gpt2rt.cluster import joined
from gpt2rt.engine.providers import physical_cores
from gpt2rt.errors import Gpt2rtError, InvalidSetting, missing_extra
from gpt2rt_bench.machine.hardware import Machine
from gpt2rt_bench.report import described
from gpt2rt_bench.scaling.measured import MeasuredScaling

COMMAND = "gpt2rt score"


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """What is measured: `texts` of `length` tokens in `parts`, with each number of `actors`.

    Raises `InvalidSetting` for what means nothing.
    """

    bundle: Bundle
    actors: Sequence[int] = (1, 2, 4, 8)
    texts: int = 800
    length: int = 64
    parts: int = 80
    rounds: int = 3

    def __post_init__(self) -> None:
        counts = (*self.actors, self.texts, self.length, self.parts, self.rounds)
        if min(counts) < 1 or not self.actors:
            raise InvalidSetting("texts, tokens, parts, rounds and actors are 1 or more")
        if self.texts % self.parts:
            raise InvalidSetting(f"{self.texts} texts are not {self.parts} parts of one size")


@dataclass(slots=True)
class _Runs:
    """Rounds of each kind, in seconds."""

    plain: dict[int, list[float]] = field(default_factory=dict)
    actors: dict[int, list[float]] = field(default_factory=dict)
    empty: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)


def measure(plan: ScalingPlan, tell: Callable[[str], None]) -> MeasuredScaling:
    """Run the rounds. Raises `Gpt2rtError` for a command that fails."""
    cores = physical_cores()
    runs = _Runs()
    with tempfile.TemporaryDirectory() as folder, _cluster(max(*plan.actors, cores)) as address:
        place = Path(folder)
        tokens = _write_texts(plan, place)
        _start_seconds(address, plan.bundle)  # so that files are in memory
        for number in range(1, plan.rounds + 1):
            _round(plan, place, address, sorted({1, cores}), runs)
            tell(f"round {number} of {plan.rounds}")
    return MeasuredScaling(
        machine=described(Machine.here()),
        cores=cores,
        model=plan.bundle.name,
        command=COMMAND,
        tokens=tokens,
        parts=plan.parts,
        plain={n: tuple(times) for n, times in runs.plain.items()},
        empty=tuple(runs.empty),
        start=tuple(runs.start),
        actors={n: tuple(times) for n, times in runs.actors.items()},
    )


def _round(
    plan: ScalingPlan, place: Path, address: str, threads: Sequence[int], runs: _Runs
) -> None:
    def run(texts: str, *options: str) -> float:
        """Seconds of the command."""
        rows = 1 if texts == "one.txt" else plan.texts // plan.parts
        with tempfile.TemporaryDirectory(dir=place) as output:
            given = ["--file", str(place / texts), "--lines", "--part-rows", str(rows)]
            command = [*COMMAND.split()[1:], *given, "--model", str(plan.bundle.directory)]
            return _seconds([*command, *options, "--output", f"{output}/scores/"])

    for n in threads:
        alone = run("one.txt", "--threads", str(n))
        whole = run("all.txt", "--threads", str(n))
        runs.plain.setdefault(n, []).append(whole - alone)
    on = ("--ray", address, "--threads", "1", "--actors")
    runs.empty.append(run("one.txt", *on, "1"))
    for n in plan.actors:
        runs.actors.setdefault(n, []).append(run("all.txt", *on, str(n)))
    runs.start.append(_start_seconds(address, plan.bundle))


def _seconds(arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "gpt2rt", *arguments], capture_output=True, text=True
    )
    took = time.perf_counter() - began
    if ended.returncode:
        raise Gpt2rtError(f"{COMMAND} failed: {ended.stderr.strip().splitlines()[-1:]}")
    return took


def _start_seconds(address: str, bundle: Bundle) -> float:
    """Processor time of a worker of Ray from its start until it has loaded the model."""
    with joined(address):
        import ray

        ended: float = ray.get(ray.remote(max_calls=1)(_start).remote(str(bundle.directory)))
    return ended


def _start(directory: str) -> float:
    import_module("ray.data")  # an actor has it, too
    GPT2.load(directory, threads=1)
    return time.process_time()


def _write_texts(plan: ScalingPlan, place: Path) -> int:
    """Write a file with all texts and one with the first; returns the number of their tokens."""
    tokenizer = GPT2.load(plan.bundle.directory, threads=1).tokenizer
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, tokenizer.n_vocab, (plan.texts, plan.length))
    lines = [" ".join(tokenizer.decode(row.tolist()).split()) or "a" for row in drawn]
    (place / "all.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (place / "one.txt").write_text(lines[0] + "\n", encoding="utf-8")
    return sum(len(tokenizer.encode(line)) for line in lines)


@contextmanager
def _cluster(cores: int) -> Iterator[str]:
    """The address of a cluster of this machine that takes it to have so many cores."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        raise missing_extra("ray", "scaling is measured with Ray") from None
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": cores, "include_dashboard": False}
    )
    try:
        yield nodes.gcs_address
    finally:
        nodes.shutdown()
