"""Draws measured runs beside the simulation: time and gain over the number of actors."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from gpt2rt_bench.plot import COLOURS, FAINT, INK
from gpt2rt_bench.scaling.measured import MeasuredScaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(measured: MeasuredScaling, predicted: Mapping[int, float], form: str) -> bytes:
    """The picture as a file of `form`: png, svg or pdf."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    _panel(left, measured, predicted, "Seconds", "the whole command; lower is better", 1.0)
    rates = {n: measured.tokens / seconds for n, seconds in predicted.items()}
    _panel(right, measured, rates, "Tokens a second", "higher is better", float(measured.tokens))
    figure.suptitle("--ray on one machine", x=0.01, ha="left", size=13, weight="bold", color=INK)
    about = (
        f"{measured.command} with {measured.model} on {measured.machine}; {measured.tokens:,} "
        f"tokens in {measured.parts} parts. Points are rounds, the line is the simulation, which "
        "knows only the plain command and a job of one text."
    )
    figure.supxlabel(about, x=0.01, ha="left", size=7.5, color=FAINT, wrap=True)
    file = io.BytesIO()
    figure.savefig(file, format=form, facecolor="white")
    return file.getvalue()


def _panel(
    axes: Axes,
    measured: MeasuredScaling,
    line: Mapping[int, float],
    title: str,
    below: str,
    tokens: float,
) -> None:
    """Rounds as points and the simulation as a line; with `tokens` of 1 in seconds, else rates."""
    counts = sorted(line)
    axes.plot(counts, [line[n] for n in counts], color=COLOURS[3], lw=1.6, zorder=2)
    points = [
        (n, seconds if tokens == 1 else tokens / seconds)
        for n, rounds in sorted(measured.actors.items())
        for seconds in rounds
    ]
    axes.plot(*zip(*points, strict=True), "o", color=COLOURS[0], ms=5, zorder=3, clip_on=False)
    n, value = counts[-1], line[counts[-1]]
    axes.annotate(
        "simulated",
        (n, value),
        (-4, 7),
        textcoords="offset points",
        ha="right",
        size=8,
        color=COLOURS[3],
    )
    most = max([value for _, value in points] + list(line.values()))
    axes.set_ylim(0, most * 1.18)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts], minor=False)
    axes.minorticks_off()
    axes.axvline(measured.cores, color=FAINT, lw=0.8, ls=":", zorder=1)
    axes.text(measured.cores, most * 1.16, " cores", size=7.5, color=FAINT, va="top", ha="left")
    axes.set_xlabel("actors", size=8.5, color=INK)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_title(f"{title}\n", loc="left", size=10.5, weight="bold", color=INK)
    axes.text(0, 1.02, below, transform=axes.transAxes, size=8, color=FAINT, va="bottom")
