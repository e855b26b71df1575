"""What the simulation says of a measured job, from figures that are not of that job's own runs.

The rate of a core and how much cores disturb each other are those of the plain command; an actor's
start is that of a worker that loads the model; the rest of a job with next to nothing to do is the
cluster's. So nothing is fitted to the runs that are predicted.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from gpt2rt_bench.scaling.measured import MeasuredScaling
from gpt2rt_bench.scaling.simulation import Cluster, simulate


def calibrated(measured: MeasuredScaling, actors: int) -> Cluster:
    """The cluster of a measurement, with so many actors."""
    one, all_cores = (median(measured.plain[n]) for n in (1, measured.cores))
    crowded = min(1.0, one / all_cores / measured.cores)
    start = min(median(measured.start), median(measured.empty))
    return Cluster(
        actors=actors,
        cores=measured.cores,
        rate=measured.tokens / one,
        crowded=crowded,
        opening=median(measured.empty) - start,
        start=start,
        shared=True,
    )


def predicted(measured: MeasuredScaling, actors: Iterable[int]) -> dict[int, float]:
    """Seconds by the number of actors."""
    parts = [measured.tokens / measured.parts] * measured.parts
    return {n: simulate(calibrated(measured, n), parts).seconds for n in actors}
