"""The figures of servers: as a record, and as rows of a table with a column for each server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from gpt2rt_bench.serving.load import LoadRound
from gpt2rt_bench.serving.measure import ServerResult, ServingResult
from gpt2rt_bench.summary import Interval

Record = dict[str, Any]
WHOLE, LONG = "", "_beside_long"  # what the names of figures end in

# Title -> the form of its figures, by their names in a record.
TITLES: Mapping[str, str] = {
    "tokens/s": "{tokens_per_second[median]:.0f}",
    "of generate_batch": "{of_batch[median]:.3f}",
    "of generate_batch, interval": "{of_batch[low]:.3f}–{of_batch[high]:.3f}",
    "first token, ms: p50": "{first_ms_p50:.1f}",
    "first token, ms: p95": "{first_ms_p95:.1f}",
    "between tokens, ms: p50": "{between_ms_p50:.2f}",
    "between tokens, ms: p95": "{between_ms_p95:.2f}",
    "with long prompts:": "",
    "  tokens/s": "{tokens_per_second_beside_long[median]:.0f}",
    "  long prompts answered in a second": "{long_per_second:.2f}",
    "  first token, ms: p50": "{first_ms_p50_beside_long:.1f}",
    "  first token, ms: p95": "{first_ms_p95_beside_long:.1f}",
    "  between tokens, ms: p50": "{between_ms_p50_beside_long:.2f}",
    "  between tokens, ms: p95": "{between_ms_p95_beside_long:.2f}",
    "  p95 / p50": "{between_ratio_beside_long:.2f}",
    "own CPU, ms per 1,000 tokens": "{own_ms_per_1000[median]:.1f}",
    "one client, ms a token": "{alone_ms[median]:.2f}",
    "of gpt2rt generate": "{of_generate[median]:.3f}",
    "ready after kill -9, s": "{start_seconds[median]:.2f}",
}


def records(result: ServingResult) -> list[Record]:
    """The figures of each server. Those of several rounds are an `Interval` as a dict.

    A figure that is not known of a server is None: the CPU time and the start of one that was not
    started here.
    """
    plan = result.plan
    shared = {
        "model": plan.bundle.name,
        "clients": plan.clients,
        "steps": plan.steps,
        "long_every": plan.long_every,
        "threads": plan.threads,
        "provider": plan.provider,
        "rounds": plan.rounds,
        "batch_tokens_per_second": _interval(result.library.tokens_per_second),
        "generate_ms": _interval(result.library.token_ms),
    }
    return [{"server": one.name, **shared, **_figures(one, result)} for one in result.servers]


def table(found: Sequence[Record]) -> list[list[str]]:
    """Rows of a title and a cell for each server; empty where a figure is not known."""
    return [[title, *(_cell(form, one) for one in found)] for title, form in TITLES.items()]


def _cell(form: str, record: Record) -> str:
    known = {name: value for name, value in record.items() if value is not None}
    try:
        return form.format_map(known)
    except KeyError:
        return ""


def _figures(server: ServerResult, result: ServingResult) -> Record:
    library = result.library
    speeds = [one.tokens_per_second for one in server.plain]
    alone = [median(text.token_ms for text in one.texts) for one in server.alone]
    own = [
        1e6 * seconds / one.tokens for seconds, one in zip(server.own, server.plain, strict=False)
    ]
    beside_long = _of_load(server.beside_long, LONG)
    middle, slow = (beside_long[f"between_ms_p{p}{LONG}"] for p in (50, 95))
    return {
        **_of_load(server.plain, WHOLE),
        "of_batch": _ratio(speeds, library.tokens_per_second),
        **beside_long,
        "between_ratio" + LONG: slow / middle if middle else None,
        "long_per_second": median(one.long / one.seconds for one in server.beside_long),
        "own_ms_per_1000": _interval(own),
        "alone_ms": _interval(alone),
        "of_generate": _ratio(alone, library.token_ms),
        "start_seconds": _interval(server.starts),
    }


def _of_load(rounds: Sequence[LoadRound], ending: str) -> Record:
    """Figures of rounds of many clients; percentiles are over all rounds."""
    firsts = [text.first_ms for one in rounds for text in one.texts]
    between = [ms for one in rounds for text in one.texts for ms in text.between_ms]
    speeds = [one.tokens_per_second for one in rounds]
    return {
        "tokens_per_second" + ending: _interval(speeds),
        **{f"first_ms_p{p}{ending}": _percentile(firsts, p) for p in (50, 95)},
        **{f"between_ms_p{p}{ending}": _percentile(between, p) for p in (50, 95)},
    }


def _percentile(values: Sequence[float], p: int) -> float | None:
    return float(np.percentile(values, p)) if values else None


def _interval(values: Sequence[float]) -> Record | None:
    return asdict(Interval.of(values)) if values else None


def _ratio(values: Iterable[float], others: Iterable[float]) -> Record | None:
    """The ratios of figures, round by round; a text of one token has no time a token."""
    return _interval([one / other for one, other in zip(values, others, strict=True) if other])
