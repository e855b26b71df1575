"""Draws a benchmark: tokens per second, time to the first token, share of the memory's limit."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from gpt2rt_bench.machine.hardware import Machine
from gpt2rt_bench.report import ReportRow, described, read_speeds
from gpt2rt_bench.summary import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can distinguish; gpt2rt's own come first.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#8C6D31", "#7F7F7F")
INK, FAINT = "#222222", "#8A8A8A"
ROW = 0.30  # inches of a bar


def draw(rows: Sequence[ReportRow], machine: Machine, form: str) -> bytes:
    """The picture as a file of `form`: png, svg or pdf."""
    labels = list(dict.fromkeys(_label(row, rows) for row in rows))
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    ceilings = any(row.utilisation is not None for row in rows)
    groups = list(dict.fromkeys((row.result.case.prompt, row.result.case.batch) for row in rows))
    height = max(3.2, ROW * (len(rows) + len(groups)) + 1.9)
    figure = Figure(figsize=(13 if ceilings else 10, height), layout="constrained", dpi=150)
    axes = figure.subplots(
        1, 3 if ceilings else 2, width_ratios=[1.25, 1, 1][: 3 if ceilings else 2]
    )
    rates = [row.summary.tokens_per_second for row in rows]
    _bars(axes[0], rows, rates, colours)
    _titles(axes[0], "Tokens per second", "decoding, whole batch; longer is better")
    _bars(axes[1], rows, [row.summary.prefill_ms for row in rows], colours)
    _titles(axes[1], "Time to the first token, ms", "prompt read, token chosen; shorter is better")
    axes[1].set_yticks([])
    if ceilings:
        _roofline(axes[2], rows, colours)
        _titles(axes[2], "How near the memory's limit", "a decode step beside reading its bytes")
    figure.suptitle("gpt2rt bench", x=0.01, ha="left", size=14, weight="bold", color=INK)
    rounds = len(rows[0].result.answers)
    sure = f"{rows[0].summary.step_ms.confidence:.0%}"
    about = (
        f"{described(machine)}; {read_speeds(rows)}. Medians of {rounds} interleaved rounds; "
        f"lines are {sure} intervals of the median."
    )
    figure.supxlabel(about, x=0.01, ha="left", size=7.5, color=FAINT, wrap=True)
    file = io.BytesIO()
    figure.savefig(file, format=form, facecolor="white")
    return file.getvalue()


def _label(row: ReportRow, rows: Sequence[ReportRow]) -> str:
    """A label for a row's configuration: the settings in which the rows differ."""
    own = row.result.case.configuration
    every = [other.result.case.configuration for other in rows]
    parts = [own.model if own.library == "gpt2rt" else f"{own.library} · {own.model}"]
    if len({row.provider for row in rows}) > 1:
        parts.append(row.provider)
    if len({other.threads for other in every}) > 1:
        parts.append(f"{own.threads} thread{'s' if own.threads > 1 else ''}")
    return ", ".join(parts)


def _bars(
    axes: Axes,
    rows: Sequence[ReportRow],
    figures: Sequence[Interval],
    colours: dict[str, str],
) -> None:
    """A bar a case, those of the same prompt and batch under a heading."""
    place, ticks, names = 0.0, [], []
    widest = max(figure.high for figure in figures)
    heading = None
    for row, figure in zip(rows, figures, strict=True):
        case, label = row.result.case, _label(row, rows)
        if (case.prompt, case.batch) != heading:
            heading = (case.prompt, case.batch)
            text = f"{case.prompt} prompt tokens, batch {case.batch}"
            axes.text(0, place, text, va="center", size=8.5, weight="bold", color=INK)
            place += 1
        axes.barh(place, figure.median, 0.72, color=colours[label])
        axes.plot([figure.low, figure.high], [place, place], color=INK, lw=1.1)
        axes.text(
            figure.high + widest * 0.015,
            place,
            _short(figure.median),
            va="center",
            size=8,
            color=INK,
        )
        ticks.append(place)
        names.append(label)
        place += 1
    axes.set_yticks(ticks, names, size=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place - 0.4, -0.6)
    axes.set_xlim(0, widest * 1.16)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.set_xticks([])


def _short(value: float) -> str:
    """A figure with three significant digits, or as a whole number from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _roofline(axes: Axes, rows: Sequence[ReportRow], colours: dict[str, str]) -> None:
    """Milliseconds of a step over the megabytes that it reads, and the line of the bandwidth."""
    known = [row for row in rows if row.step_bytes is not None and row.bandwidth is not None]
    most = max(row.step_bytes or 0 for row in known) * 1.25
    for bandwidth in {row.bandwidth for row in known if row.bandwidth is not None}:
        ends = [0, most / bandwidth * 1e3]
        axes.plot([0, most / 1e6], ends, color=FAINT, lw=1, zorder=1)
        axes.fill_between([0, most / 1e6], ends, color=FAINT, alpha=0.13, lw=0, zorder=0)
    highest = max(row.summary.step_ms.high for row in known) * 1.12
    labelled: list[tuple[float, float]] = []
    for row in known:
        assert row.step_bytes is not None
        assert row.utilisation is not None
        x, step = row.step_bytes / 1e6, row.summary.step_ms
        colour = colours[_label(row, rows)]
        axes.plot([x, x], [step.low, step.high], color=colour, lw=1.2, zorder=2)
        axes.plot(x, step.median, "o", color=colour, ms=6, zorder=3)
        place = (x / most * 1e6, step.median / highest)
        if any(abs(a - place[0]) < 0.13 and abs(b - place[1]) < 0.045 for a, b in labelled):
            continue  # it would overlap another label
        labelled.append(place)
        text = f"{row.utilisation:.0%}"
        axes.annotate(
            text,
            (x, step.median),
            (6, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=INK,
        )
    axes.set_xlim(0, most / 1e6)
    axes.set_ylim(0, highest)
    axes.set_xlabel("MB read a step (grey: faster than memory can be read)", size=8.5, color=INK)
    axes.set_ylabel("ms a step", size=8.5, color=INK)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _titles(axes: Axes, title: str, below: str) -> None:
    axes.set_title(f"{title}\n", loc="left", size=10.5, weight="bold", color=INK)
    axes.text(0, 1.02, below, transform=axes.transAxes, size=8, color=FAINT, va="bottom")
