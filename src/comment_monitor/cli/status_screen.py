"""What `comment-monitor status` shows a person: 80 columns, and first what a short terminal must not cut off."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from comment_monitor.core.printable import all_printable
from comment_monitor.diagnostics.status import QUANTILES

GOOD: Final = {"ok": "green", "degraded": "yellow", "draining": "yellow"}
MIB: Final = 1024 * 1024
UNKNOWN: Final = "-"
MINUTE, HOUR = 60, 3600
NOTE: Final = "What waits for analysis is up to 5 s old, invariants are as last looked at."
Figures = Mapping[str, Any]


def screen(figures: Figures, *, errors: int | None = None) -> Group:
    """One look.

    Args:
        figures: what `--json` tells.
        errors: how many of them are named at most; None: all.
    """
    # A service may answer anything.
    figures = all_printable(figures)
    if error := figures.get("error"):
        now, since = _clock(figures["time"]), _clock(figures["since"])
        return Group(Text(error, style="bold red"), Text(f"{now}; it has been so since {since}"))
    parts = [_head(figures), *_alarms(figures), _errors(figures, errors), _flow(figures), _latency(figures)]
    if used := _container(figures):
        parts.append(Text(used, style="dim"))
    return Group(*parts, Text(NOTE, style="dim"))


def _clock(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S %Z")


def _head(figures: Figures) -> Panel:
    state = figures["health"]
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1, overflow="fold")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(
        Text.assemble("health ", (state, f"bold {GOOD.get(state, 'red')}"), f"  {figures['url']}"),
        Text(f"{_clock(figures['time'])}, over {figures['seconds']:.1f} s"),
    )
    checks = "   ".join(f"{name} {value}" for name, value in figures["checks"].items())
    return Panel(
        Group(line, Text(checks), _metrics_of(figures["metrics_of"])), title="comment-monitor", title_align="left"
    )


def _metrics_of(processes: Mapping[str, int]) -> Text:
    """Whose figures these are: without a worker's, what is analysed is not known."""
    names = {"both_in_one": "orchestrator with worker", "orchestrators": "orchestrator", "workers": "worker"}
    found = [f"{processes[key]} {name}" for key, name in names.items() if processes[key]]
    text = Text(f"metrics of {', '.join(found)}")
    for part in ("orchestrator", "worker"):
        if not (processes["both_in_one"] or processes[f"{part}s"]):
            text.append(f"; no {part}'s metrics (--metrics-url)", style="yellow")
    return text


def _alarms(figures: Figures) -> list[RenderableType]:
    found = list(figures["problems"])
    for name, violations in (figures["invariants"] or {}).items():
        if violations:
            found.append(f"Invariant {name} is broken {violations:,} times: see `comment-monitor check`.")
    return [Text(one, style="bold red") for one in found]


def _errors(figures: Figures, most: int | None) -> RenderableType:
    if not figures["errors"]:
        return Text(" No errors since the start.", style="green")
    table = _table("errors", "a second", "since the start")
    worst = sorted(figures["errors"].items(), key=lambda one: (-one[1]["a_second"], -one[1]["since_start"]))
    rows = len(worst) if most is None or len(worst) <= most else most - 1
    shown = [(reason, counts["a_second"], counts["since_start"]) for reason, counts in worst[:rows]]
    if rest := [counts for _, counts in worst[rows:]]:
        sums = [sum(one[key] for one in rest) for key in ("a_second", "since_start")]
        shown.append((f"{len(rest)} more reasons", sums[0], sums[1]))
    for reason, rate, total in shown:
        table.add_row(reason, f"{rate:,.2f}", f"{total:,}", style="red" if rate else None)
    return table


def _flow(figures: Figures) -> Table:
    rates, totals = figures["a_second"], figures["since_start"]
    counted = (
        ("stored", "stored", 0),
        ("edited", "edited", 0),
        ("duplicates", "duplicates", 0),
        ("analysed", "analysed", 0),
        ("rate limited", "refused_by_rate_limit", 1),
        ("sent again", "sent_again", 1),
    )
    now = (
        ("in the queue", _told(figures["queue"], "{:,}".format)),
        ("not yet analysed", _told(figures["backlog"], "{:,}".format)),
        ("oldest waiting", _told(figures["oldest_seconds"], _duration)),
        ("cache hits", _told(figures["cache_hit_rate"], "{:.0%}".format)),
        ("invariants", _kept(figures["invariants"])),
        ("", ""),
    )
    table = _table("comments", "a second", "since the start", "", "now")
    for (name, key, digits), (what, value) in zip(counted, now, strict=True):
        rate = _told(rates[key], f"{{:,.{digits}f}}".format)
        table.add_row(name, rate, _told(totals[key], "{:,}".format), f"   {what}", value)
    return table


def _latency(figures: Figures) -> Table:
    table = _table("seconds", *(f"p{quantile * 100:.0f}" for quantile in QUANTILES))
    for name, values in (
        ("a batch, from its arrival to its commit", figures["batch_seconds"]),
        ("a batch's analysis", figures["analysis_seconds"]),
    ):
        table.add_row(name, *(f"{one:.3f}" for one in values) if values else [UNKNOWN] * len(QUANTILES))
    slowest = figures["slowest_statement"]
    name, p95 = (f": {slowest[0]}", f"{slowest[1]:.3f}") if slowest else ("", UNKNOWN)
    table.add_row(f"slowest statement{name}", "", p95, "")
    return table


def _table(*heads: str) -> Table:
    """Without lines: each would cost a row."""
    table = Table(box=None, expand=True, header_style="dim italic", padding=(0, 1))
    table.add_column(heads[0], ratio=1)
    for head in heads[1:]:
        table.add_column(head, justify="right" if head else "left", no_wrap=True, style="bold" if head else None)
    return table


def _told(value: float | None, form: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else form(value)


def _duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:,.1f} h"


def _kept(invariants: Mapping[str, int] | None) -> str:
    """Of those that were looked at, how many hold."""
    if not invariants:
        return UNKNOWN
    return f"{sum(not one for one in invariants.values())} of {len(invariants)} hold"


def _container(figures: Figures) -> str:
    """Nothing tells whether it is a container's or, outside one, all that this machine uses."""
    used, limit = figures["memory_bytes"], figures["memory_limit_bytes"]
    found = [f"memory {used / MIB:,.0f} of {limit / MIB:,.0f} MiB"] if used is not None and limit else []
    if figures["processors"] is not None and figures["processors_limit"]:
        found.append(f"processors {figures['processors']:.2f} of {figures['processors_limit']:g}")
    return f"Container or whole machine: {', '.join(found)}" if found else ""
