"""The parity report as a table: how far a bundle is from its checkpoint, and how far it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt2rt.cli.output import tables

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "unknown text"  # in place of a limit that holds on known ones
ACROSS = 7  # layers a line; GPT-2's 13, 25, 37 and 49 states fill them best


def show(report: dict[str, Any]) -> None:
    """Print the content of a `parity.json` on standard output."""
    tables.show(_logits(report))
    tables.show(_layers(report))


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if table.columns else "left")
    return table


def _logits(report: dict[str, Any]) -> Table:
    """Logits beside TensorFlow's, computed in each way, and the text's perplexity."""
    named = ["uncached", "cached", *(way for way in ("portable", "cuda") if way in report)]
    table = _table("beside TensorFlow", *named, "allowed")
    ways = [report.get(name) for name in named]
    known = report["known"]
    table.add_row("text", report["text"])
    for title, form, key, allowed in (
        ("positions", "{:,}", "positions", ""),
        ("largest difference of logits", "{:.2g}", "largest", ""),
        ("in deviations of TensorFlow's", "{:.2g} σ", "relative", _limit(report, "largest", " σ")),
        ("mean difference", "{:.2g}", "mean", ""),
        ("KL divergence, nats", "{:.2g}", "kl", _limit(report, "kl") if known else UNKNOWN),
        ("the same, logits tempered", "{:.2g}", "tempered", _limit(report, "tempered")),
        ("same best token", "{:.2%}", "top1", ""),
        ("common among the best five", "{:.2%}", "top5", ""),
    ):
        cells = [form.format(way[key]) if way else "" for way in ways]
        table.add_row(title, *cells, allowed)
    text = report["perplexity"]
    table.add_row("perplexity of TensorFlow", "{:,.2f}".format(text["tensorflow"]))
    if text.get("guess") is not None:
        table.add_row("by the tokens' frequencies alone", "{:,.2f}".format(text["guess"]))
    table.add_row("perplexity of the bundle", "{:,.2f}".format(text["bundle"]))
    table.add_row("its change", f"{text['change']:+.3%}")
    allowed = f"{report['gate']['perplexity']:.1%}" if known else UNKNOWN
    beyond = [f"{max(text['excess'], 0):.3%}", *[""] * (len(named) - 1)]
    table.add_row("its change beyond chance", *beyond, allowed)
    if apart := report.get("apart"):
        largest, limit = (f"{apart[name]:.2g}" for name in ("largest", "allowed"))
        table.add_row("cached and uncached, apart by", "", largest, *[""] * (len(named) - 2), limit)
    return table


def _limit(report: dict[str, Any], key: str, unit: str = "") -> str:
    """A limit, and that of CUDA where it is another and the bundle has a graph for it."""
    own, cuda = (report.get(name, report["gate"])[key] for name in ("gate", "cuda_gate"))
    told = f"{own:g}{unit}"
    return told if cuda == own or "cuda" not in report else f"{told}, cuda {cuda:g}{unit}"


def _layers(report: dict[str, Any]) -> Table:
    """Relative differences of the hidden states and of what layers add, some layers a line."""
    count = len(report["drift"])
    across = min(ACROSS, count)
    table = _table("layer", *(f"+{i}" for i in range(across)), "allowed")
    for title, key, allowed in (
        ("drift after", "drift", ""),
        ("off in what is added by", "added", f"{report['gate']['added']:g}"),
    ):
        for first in range(0, count, across):
            cells = [f"{value:.1e}" for value in report[key][first : first + across]]
            limit = "" if first else allowed
            table.add_row(f"{title} {first}", *cells, *[""] * (across - len(cells)), limit)
    return table
