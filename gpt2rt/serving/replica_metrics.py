"""The counts of all replicas of a server as one text, in which each has its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


def exposition(replicas: Mapping[str, Iterable[Metric]]) -> bytes:
    """What Prometheus reads: the metrics of replicas by name, with a label `replica` each."""
    registry = CollectorRegistry()
    registry.register(_Merged(replicas))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, replicas: Mapping[str, Iterable[Metric]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for name, families in self._replicas.items():
            for family in families:
                merged = found.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={**sample.labels, "replica": name})
                    for sample in family.samples
                ]
        yield from found.values()
