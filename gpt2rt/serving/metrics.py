"""What a server counts, in Prometheus' format."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpt2rt.asynchronous import AsyncGPT2

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Name -> its kind and what it is; those of `BatchStatistics` have its names.
OF_A_MODEL: dict[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], str]] = {
    "slots": (GaugeMetricFamily, "Texts that can be continued side by side."),
    "running": (GaugeMetricFamily, "Texts in slots."),
    "queued": (GaugeMetricFamily, "Texts that wait for a slot."),
    "steps": (CounterMetricFamily, "Steps made."),
    "tokens": (CounterMetricFamily, "New tokens."),
    "prompt_tokens": (CounterMetricFamily, "Tokens of prompts read."),
    "failures": (CounterMetricFamily, "Steps that failed."),
    "model_seconds": (CounterMetricFamily, "CPU time of steps, of the thread that makes them."),
    "prefix_looked_up": (CounterMetricFamily, "Tokens of prompts looked up in the cache."),
    "prefix_found": (CounterMetricFamily, "Tokens of prompts that were in it."),
}
THREADS = Path("/proc/self/task")  # of Linux
Loaded = Callable[[], Iterable[tuple[str, AsyncGPT2]]]


class Metrics:
    """The counts of a server.

    `first_token.observe(seconds)` and `between_tokens.observe(seconds)` are for the endpoints that
    generate.
    """

    def __init__(self, loaded: Loaded, in_flight: Callable[[], int]) -> None:
        """`loaded` gives the loaded models, `in_flight` the number of requests that run."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "gpt2rt_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self.seconds = self._times("gpt2rt_request_seconds", "Duration of requests.")
        self.first_token = self._times("gpt2rt_first_token_seconds", "From request to first token.")
        self.between_tokens = self._times("gpt2rt_between_tokens_seconds", "From token to token.")
        self._registry.register(_Now(loaded, in_flight))

    def _times(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, buckets=SECONDS, registry=self._registry)

    def collect(self) -> Iterable[Metric]:
        """All of them, as values."""
        return self._registry.collect()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is counted elsewhere, read when it is asked for."""

    def __init__(self, loaded: Loaded, in_flight: Callable[[], int]) -> None:
        self._loaded = loaded
        self._in_flight = in_flight

    def collect(self) -> Iterator[Metric]:
        running = "Requests that run, waiting ones included."
        yield GaugeMetricFamily("gpt2rt_requests_in_flight", running, self._in_flight())
        if THREADS.is_dir():
            about = "CPU time of the server's threads, less those that only compute."
            yield GaugeMetricFamily("gpt2rt_python_seconds", about, _python_seconds())
        models = [(name, _counts(model)) for name, model in self._loaded()]
        for name, (kind, about) in OF_A_MODEL.items():
            family = kind(f"gpt2rt_{name}", about, labels=["model"])
            for model, counts in models:
                family.add_metric([model], counts[name])
            yield family


def _python_seconds() -> float:
    """CPU time of the threads that run Python; beyond `model_seconds` it is the server's own."""
    ticks = 0
    for thread in threading.enumerate():
        with suppress(OSError):  # it has ended meanwhile
            fields = (
                (THREADS / str(thread.native_id) / "stat").read_text().rpartition(")")[2].split()
            )
            ticks += int(fields[11]) + int(fields[12])  # utime and stime (proc(5))
    return ticks / os.sysconf("SC_CLK_TCK")


def _counts(model: AsyncGPT2) -> dict[str, float]:
    """The values of `OF_A_MODEL`."""
    prefixes = model.model.prefixes
    looked_up = found = 0
    if prefixes is not None:
        looked_up, found = prefixes.statistics.tokens, prefixes.statistics.found
    return {
        **asdict(model.model.batch.statistics),
        "prefix_looked_up": looked_up,
        "prefix_found": found,
    }
