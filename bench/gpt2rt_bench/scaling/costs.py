"""What a corpus or a stream of requests costs in machines: arithmetic over measured figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpt2rt.errors import InvalidSetting

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class CorpusCost:
    """A corpus of `tokens`, at `rate` tokens a second of a core or a GPU, within `days`.

    Attributes:
        tokens, rate, days: as above.
        start: seconds of a core or GPU until it works.
        bytes_in: read for a token.
        bytes_out: written for a token.
        bandwidth: bytes a second that the program takes in and writes, the next limit.
    """

    tokens: float
    rate: float
    days: float = 7.0
    start: float = 20.0
    bytes_in: float = 4.0
    bytes_out: float = 30.0
    bandwidth: float = 1e9

    def __post_init__(self) -> None:
        for name in ("tokens", "rate", "days", "bandwidth"):
            _check_above_0(name, getattr(self, name))

    @property
    def hours(self) -> float:
        """Hours of a core or a GPU."""
        return self.tokens / self.rate / HOUR

    @property
    def workers(self) -> int:
        """Cores or GPUs that end within the days."""
        return math.ceil(self.tokens / self.rate / (24 * HOUR * self.days - self.start))

    @property
    def most_workers(self) -> int:
        """Cores or GPUs beyond which the program that writes is the limit."""
        return max(1, int(self.bandwidth / (self.rate * self.bytes_out)))

    @property
    def least_days(self) -> float:
        """Days that one program takes at least, however many compute: it writes all results."""
        return self.tokens * self.bytes_out / self.bandwidth / HOUR / 24


@dataclass(frozen=True, slots=True)
class ServingCost:
    """Requests a second, each of `length` new tokens, at `rate` tokens a second of a replica.

    Attributes:
        requests, length, rate: as above.
        cores: of a replica, which compute and pass tokens on; 0 for one that computes on a GPU, and
            passes tokens on with a core beside it.
        own: seconds of a core that the server takes for a streamed token.
        passing: what it takes more behind a proxy.
        proxy: seconds of a core that the proxy takes for a streamed token.
        full: the share of a replica's rate that is planned with, so that queues stay short.
    """

    requests: float
    length: float
    rate: float
    cores: float = 2.0
    own: float = 0.0
    passing: float = 0.0
    proxy: float = 0.0
    full: float = 0.7

    def __post_init__(self) -> None:
        for name in ("requests", "length", "rate", "full"):
            _check_above_0(name, getattr(self, name))

    @property
    def tokens(self) -> float:
        """New tokens a second."""
        return self.requests * self.length

    @property
    def passed(self) -> float:
        """Tokens a second that a replica makes and passes on, at most."""
        if self.cores:
            return 1 / (1 / self.rate + self.passing / self.cores)
        return 1 / max(1 / self.rate, self.own + self.passing)

    @property
    def replicas(self) -> int:
        return math.ceil(self.tokens / (self.passed * self.full))

    @property
    def proxy_cores(self) -> float:
        """Cores that proxies take."""
        return self.tokens * self.proxy


def _check_above_0(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidSetting(f"{name} must be above 0, not {value!r:.60}")
