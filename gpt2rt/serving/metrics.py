"""What a server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpt2rt.asynchronous import AsyncGPT2

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of a server.

    `first_token.observe(seconds)` and `between_tokens.observe(seconds)` are for the endpoints that
    generate.
    """

    def __init__(self, loaded: Callable[[], Iterable[tuple[str, AsyncGPT2]]]) -> None:
        """`loaded` gives the loaded models, whose own counts are read when they are asked for."""
        self._registry = CollectorRegistry()
        made = {"namespace": "gpt2rt", "registry": self._registry}
        self.requests = Counter("requests", "Requests.", ["path", "status"], **made)  # type: ignore[arg-type]
        self.seconds = Histogram(
            "request_seconds", "Duration of requests.", buckets=SECONDS, **made  # type: ignore[arg-type]
        )  # fmt: skip
        self.first_token = Histogram(
            "first_token_seconds", "From the request to its first token.", buckets=SECONDS, **made  # type: ignore[arg-type]
        )  # fmt: skip
        self.between_tokens = Histogram(
            "between_tokens_seconds", "From a token to the next.", buckets=SECONDS, **made  # type: ignore[arg-type]
        )  # fmt: skip
        self.in_flight = Gauge("requests_in_flight", "Requests that run.", **made)  # type: ignore[arg-type]

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
