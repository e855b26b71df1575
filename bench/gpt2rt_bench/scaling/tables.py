"""The tables of `python -m gpt2rt_bench.scaling`, and the measured figures that costs rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt2rt_bench.scaling.costs import CorpusCost, ServingCost
from gpt2rt_bench.scaling.measured import MeasuredScaling

GIVEN = "given with --rate"


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second of a worker: a core or a GPU, or for requests a replica of `cores`."""

    what: str
    source: str
    tokens: float
    cores: float = 1.0


# 117M's shape. Machine D of bench/RESULTS.md: two cores, Zen 4, int8; a core is half of that.
CORPUS = (
    Rate("score, a core", "D, int8, window 1,024: 1,822 with two threads", 1822 / 2),
    Rate("generate, a core", "D, int8, 32 texts: 1,600 with two threads", 1600 / 2),
    Rate("generate, an H100", "fp16, generate_batch, 32 texts, top-k 40", 10_400),
)
SERVING = (
    Rate("two cores", "D, int8, 32 clients, HTTP included", 599, 2.0),
    Rate("an H100", "fp16, 32 texts, generate_batch, no HTTP", 10_400, 0.0),
)
OWN = 0.103e-3  # D: of the server, for a streamed token


@dataclass(frozen=True, slots=True)
class Proxy:
    """What stands before replicas: seconds of a core for a streamed token.

    `seconds` are its own, `passing` those that a replica takes more than without it.
    """

    what: str
    seconds: float
    passing: float


# Ray 2.60, 16 streams of a token each 20 ms; processor time of the processes, busy machine.
PROXIES = (Proxy("Serve's own", 0.50e-3, 0.30e-3), Proxy("HAProxy", 0.04e-3, 0.05e-3))


def compared(measured: MeasuredScaling, predicted: Mapping[int, float]) -> str:
    """A row for each number of actors, measured and simulated."""
    rows = [["actors", "measured s", "simulated s", "off", "gain", "simulated gain"]]
    first = min(predicted)
    for n, seconds in sorted(predicted.items()):
        found = measured.seconds(n)
        rows.append(
            [
                f"{n}",
                f"{found:.2f}",
                f"{seconds:.2f}",
                f"{seconds / found - 1:+.0%}",
                f"{measured.seconds(first) / found:.2f}",
                f"{predicted[first] / seconds:.2f}",
            ]
        )
    about = (
        f"{measured.command}, {measured.model}, {measured.tokens:,} tokens in {measured.parts} "
        f"parts; {measured.machine}"
    )
    return f"{about}\n\n{_table(rows)}"


def corpus_costs(tokens: float, days: float, rates: Sequence[float]) -> str:
    """A row for each worker whose rate is known, and for each of `rates`."""
    rows = [["corpus", "tokens/s", "hours", f"for {days:g} days", "limit", "source"]]
    for rate in (*CORPUS, *(Rate("yours", GIVEN, rate) for rate in rates)):
        cost = CorpusCost(tokens, rate.tokens, days)
        rows.append(
            [
                rate.what,
                f"{rate.tokens:,.0f}",
                f"{cost.hours:,.0f}",
                f"{cost.workers:,}",
                f"{cost.most_workers:,}",
                rate.source,
            ]
        )
    cost = CorpusCost(tokens, 1.0, days)
    after = (
        f"{tokens:,.3g} tokens; {tokens * cost.bytes_in / 1e12:,.1f} TB are read and "
        f"{tokens * cost.bytes_out / 1e12:,.1f} TB written; beyond the limit one program that "
        f"writes {cost.bandwidth / 1e9:g} GB a second is what takes {cost.least_days:.2g} days"
    )
    return f"{_table(rows)}\n\n{after}"


def serving_costs(requests: float, length: float, rates: Sequence[float]) -> str:
    """A row for each kind of replica and proxy."""
    rows = [["replica", "proxy", "tokens/s", "replicas", "cores of proxies", "source"]]
    for rate in (*SERVING, *(Rate("yours", GIVEN, rate) for rate in rates)):
        for proxy in PROXIES:
            cost = ServingCost(
                requests,
                length,
                rate.tokens,
                cores=rate.cores,
                own=OWN,
                passing=proxy.passing,
                proxy=proxy.seconds,
            )
            rows.append(
                [
                    rate.what,
                    proxy.what,
                    f"{cost.passed:,.0f}",
                    f"{cost.replicas:,}",
                    f"{cost.proxy_cores:,.0f}",
                    rate.source,
                ]
            )
    after = (
        f"{requests:,.3g} requests a second, {length:g} new tokens each, "
        f"replicas {cost.full:.0%} full"
    )
    return f"{_table(rows)}\n\n{after}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown whose columns are aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
