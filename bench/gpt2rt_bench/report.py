"""Makes the table's rows, JSON records and a Markdown report of a benchmark."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpt2rt_bench.cases import OURS
from gpt2rt_bench.latency import CaseResult
from gpt2rt_bench.machine.bandwidth import Meters
from gpt2rt_bench.machine.hardware import Machine, limitation
from gpt2rt_bench.summary import METHOD, Summary, agreement, baseline, summarise
from gpt2rt_bench.traffic import Traffic

TITLES = (
    "model",
    "library",
    "provider",
    "precision",
    "threads",
    "prompt",
    "batch",
    "load ms",
    "first token ms",
    "ms a step",
    "p90",
    "p99",
    "tokens/s",
    "interval",
    "±",
    "ratio",
    "same tokens",
    "of bandwidth",
    "peak MB",
    "session",
    "sampling",
    "tokenising",
)
TEXTS = ("model", "library", "provider", "precision")
SAME_TOKENS = (
    "same tokens: the share of greedy tokens up to where a text parts from that of gpt2rt's first "
    "provider; random "
    "weights leave the best two tokens so close together that rounding alone parts them"
)


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One case with its figures.

    `beside`: the case that `ratio` compares with; `step_bytes`: the mean bytes that a decode step
    reads; `bandwidth`: the bytes per second that its provider can read with as many threads. None
    where not known.
    """

    result: CaseResult
    summary: Summary
    beside: CaseResult | None
    step_bytes: float | None
    bandwidth: float | None

    @property
    def provider(self) -> str:
        """The provider that ran the graph."""
        return self.result.subject.ready.provider

    @property
    def utilisation(self) -> float | None:
        """The share of the bandwidth that a decode step uses."""
        if self.step_bytes is None or self.bandwidth is None:
            return None
        return self.step_bytes / (self.summary.step_ms.median / 1e3) / self.bandwidth

    @property
    def agreement(self) -> float | None:
        """The share of the greedy tokens that are those of the case it is compared with.

        None for the same provider of gpt2rt, and for another model.
        """
        own = self.result.case.configuration
        other = None if self.beside is None else self.beside.case.configuration
        if self.beside is None or other is None or own.model != other.model:
            return None
        if own.library == OURS and own.provider == other.provider:
            return None
        return agreement(self.result, self.beside)

    def cells(self) -> list[str]:
        """The cells of the table's row, in the order of `TITLES`."""
        case, s = self.result.case, self.summary
        shares = s.shares or {}
        return [
            case.configuration.model,
            case.configuration.library,
            self.provider,
            self.result.subject.ready.precision,
            str(case.configuration.threads),
            str(case.prompt),
            str(case.batch),
            f"{self.result.subject.ready.load_ms:.0f}",
            f"{s.prefill_ms.median:.1f}",
            f"{s.step_ms.median:.2f}",
            f"{s.token_ms[90]:.2f}",
            f"{s.token_ms[99]:.2f}",
            f"{s.tokens_per_second.median:.1f}",
            s.tokens_per_second.between("{:.1f}"),
            f"{s.spread:.1%}",
            "" if s.ratio is None else f"{s.ratio.median:.2f}",
            "" if self.agreement is None else f"{self.agreement:.0%}",
            "" if self.utilisation is None else f"{self.utilisation:.0%}",
            "" if s.peak_bytes is None else f"{s.peak_bytes / 1e6:.0f}",
            *(f"{shares[n]:.1%}" if n in shares else "" for n in TITLES[-3:]),
        ]

    def record(self) -> dict[str, Any]:
        """The fields of the line of JSON."""
        case, ready, s = self.result.case, self.result.subject.ready, self.summary
        return {
            **asdict(case.configuration),
            "asked_provider": case.configuration.provider,
            "provider": self.provider,  # that really ran
            "kernels": ready.kernels,
            "precision": ready.precision,
            "prompt": case.prompt,
            "batch": case.batch,
            "steps": case.steps,
            "rounds": len(self.result.answers),
            "load_ms": ready.load_ms,
            "start_ms": self.result.subject.start_ms,
            "prefill_ms": asdict(s.prefill_ms),
            "step_ms": asdict(s.step_ms),
            **{f"token_ms_p{p}": value for p, value in s.token_ms.items()},
            "tokens_per_second": asdict(s.tokens_per_second),
            "spread": s.spread,
            "ratio": None if s.ratio is None else asdict(s.ratio),
            "ratio_to": None if self.beside is None else self.beside.case.configuration.name,
            "agreement": self.agreement,
            "step_bytes": self.step_bytes,
            "bandwidth": self.bandwidth,
            "utilisation": self.utilisation,
            "peak_bytes": s.peak_bytes,
            "load_peak_bytes": ready.peak_bytes,
            "shares": s.shares,
            "versions": ready.versions,
            "notes": ready.notes,
        }


def rows_of(
    results: Sequence[CaseResult],
    traffic_of: Callable[[CaseResult], Traffic | None],
    meters: Meters,
) -> list[ReportRow]:
    """A row for every result; `traffic_of` may return None for unknown."""
    found = []
    for result in results:
        case, beside = result.case, baseline(result, results)
        traffic = traffic_of(result)
        step_bytes = None if traffic is None else traffic.step(case.batch, case.past)
        speed = meters.bandwidth(result.subject.ready.provider, case.configuration.threads)
        found.append(ReportRow(result, summarise(result, beside), beside, step_bytes, speed))
    return found


def columns(rows: Sequence[ReportRow]) -> list[int]:
    """The numbers of the columns of `TITLES` to show: not those that are empty in every row, nor
    settings with the same value in every row.
    """
    table = [row.cells() for row in rows]
    settings = ("library", "provider", "precision", "threads")
    found = []
    for place, title in enumerate(TITLES):
        values = {cells[place] for cells in table}
        if values != {""} and not (title in settings and len(values) == 1):
            found.append(place)
    return found


def shared_settings(rows: Sequence[ReportRow]) -> str:
    """A sentence with the settings that `columns` leaves out, and the method."""
    first = rows[0].cells()
    hidden = set(range(len(TITLES))) - set(columns(rows))
    same = [f"{TITLES[i]} {first[i]}" for i in sorted(hidden) if first[i]]
    sample = rows[0].summary.tokens_per_second
    rounds = len(rows[0].result.answers)
    plural = "s" if rounds > 1 else ""
    what = f"{rounds} interleaved round{plural} after one that is not counted, medians"
    interval = [f"{sample.confidence:.0%} {METHOD}"] if sample.confidence else []
    return "; ".join([*same, what, *interval])


def notes(rows: Sequence[ReportRow], machine: Machine) -> list[str]:
    """Sentences for the reader of the figures, each once."""
    found = []
    for row in rows:
        ready, model = row.result.subject.ready, row.result.case.configuration.model
        found += [f"{model} on {row.provider}: {note}" for note in ready.notes]
        if note := limitation(ready.precision, row.provider, machine):
            found.append(note)
    if any(row.agreement is not None for row in rows):
        found.append(SAME_TOKENS)
    return list(dict.fromkeys(found))


def markdown(rows: Sequence[ReportRow], machine: Machine, command: Sequence[str]) -> str:
    """The report in Markdown: command, machine, versions, table and notes."""
    shown = columns(rows)
    versions = dict(machine.versions)
    for row in rows:
        versions |= row.result.subject.ready.versions
    lines = [
        "# gpt2rt bench",
        "",
        f"`gpt2rt {shlex.join(command)}`",
        "",
        f"- **Machine**: {described(machine)}",
        f"- **Memory**: {read_speeds(rows)}",
        f"- **Versions**: {', '.join(f'{n} {v}' for n, v in versions.items())}",
        f"- **Figures**: {shared_settings(rows)}.",
        "",
        "| " + " | ".join(TITLES[i] for i in shown) + " |",
        "|" + "|".join("---" if TITLES[i] in TEXTS else "---:" for i in shown) + "|",
    ]
    for row in rows:
        cells = row.cells()
        lines.append("| " + " | ".join(cells[i] for i in shown) + " |")
    sentences = notes(rows, machine)
    return (
        "\n".join([*lines, *(["", *(f"- {note}" for note in sentences)] if sentences else [])])
        + "\n"
    )


def described(machine: Machine) -> str:
    """The machine in one line."""
    cores = f"{machine.allowed_cores} of {machine.logical_cores} logical cores"
    parts = [machine.processor, machine.architecture, cores]
    if machine.instructions is not None:
        parts.append(" ".join(machine.instructions) or "no instruction set that matters")
    parts.append(f"kernels {machine.kernels or 'of ONNX Runtime'}")
    if machine.memory is not None:
        parts.append(f"{machine.memory / 1e9:.0f} GB")
    return ", ".join([*parts, machine.system, f"Python {machine.python}"])


def read_speeds(rows: Sequence[ReportRow]) -> str:
    """The measured read bandwidths, in words."""
    known = {}
    for row in rows:
        if row.bandwidth is not None:
            known[row.provider, row.result.case.configuration.threads] = row.bandwidth
    each = [
        f"{speed / 1e9:.1f} GB/s ({provider}, {threads} thread{'s' if threads > 1 else ''})"
        for (provider, threads), speed in known.items()
    ]
    return f"reads {', '.join(each)}" if each else "read bandwidth not measured"
