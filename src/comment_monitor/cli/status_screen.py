"""The screen of `comment-monitor status`: 80 columns, with the most important figures first for short terminals."""

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
NOTE: Final = "The backlog is up to 5 s old, and the invariants are those of the last check."
Figures = Mapping[str, Any]


def screen(figures: Figures, *, errors: int | None = None) -> Group:
    """Returns the screen for one refresh.

    Args:
        figures: the object that `--json` prints.
        errors: maximum number of rows for errors; None: all.
    """
    # A response may contain any characters.
    figures = all_printable(figures)
    if error := figures.get("error"):
        now, since = _clock(figures["time"]), _clock(figures["since"])
        return Group(Text(error, style="bold red"), Text(f"{now}; no valid response since {since}"))
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
    """Names the parts whose metrics were read: without a worker's, the figures of the analysis are unknown."""
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
    return [Text(problem, style="bold red") for problem in found]


def _errors(figures: Figures, most: int | None) -> RenderableType:
    if not figures["errors"]:
        return Text(" No errors since the start.", style="green")
    table = _table("errors", "a second", "since the start")
    worst = sorted(figures["errors"].items(), key=lambda error: (-error[1]["a_second"], -error[1]["since_start"]))
    rows = len(worst) if most is None or len(worst) <= most else most - 1
    shown = [(reason, counts["a_second"], counts["since_start"]) for reason, counts in worst[:rows]]
    if rest := [counts for _, counts in worst[rows:]]:
        rate, total = (sum(counts[key] for counts in rest) for key in ("a_second", "since_start"))
        shown.append((f"{len(rest)} more reasons", rate, total))
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
        ("in the queue", _shown(figures["queue"])),
        ("not yet analysed", _shown(figures["backlog"])),
        ("oldest waiting", _shown(figures["oldest_seconds"], _duration)),
        ("cache hits", _shown(figures["cache_hit_rate"], "{:.0%}".format)),
        ("invariants", _kept(figures["invariants"])),
        ("", ""),
    )
    table = _table("comments", "a second", "since the start", "", "now")
    for (name, key, digits), (gauge, value) in zip(counted, now, strict=True):
        rate = _shown(rates[key], f"{{:,.{digits}f}}".format)
        table.add_row(name, rate, _shown(totals[key]), f"   {gauge}", value)
    return table


def _latency(figures: Figures) -> Table:
    table = _table("seconds", *(f"p{quantile * 100:.0f}" for quantile in QUANTILES))
    for name, values in (
        ("a batch, from its arrival to its commit", figures["batch_seconds"]),
        ("a batch's analysis", figures["analysis_seconds"]),
    ):
        table.add_row(name, *(f"{value:.3f}" for value in values) if values else [UNKNOWN] * len(QUANTILES))
    slowest = figures["slowest_statement"]
    name, p95 = (f": {slowest[0]}", f"{slowest[1]:.3f}") if slowest else ("", UNKNOWN)
    table.add_row(f"slowest statement{name}", "", p95, "")
    return table


def _table(*heads: str) -> Table:
    """Returns a table without lines, each of which would take a row."""
    table = Table(box=None, expand=True, header_style="dim italic", padding=(0, 1))
    table.add_column(heads[0], ratio=1)
    for head in heads[1:]:
        table.add_column(head, justify="right" if head else "left", no_wrap=True, style="bold" if head else None)
    return table


def _shown(value: float | None, form: Callable[[float], str] = "{:,}".format) -> str:
    return UNKNOWN if value is None else form(value)


def _duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:,.1f} h"


def _kept(invariants: Mapping[str, int] | None) -> str:
    if not invariants:
        return UNKNOWN
    return f"{list(invariants.values()).count(0)} of {len(invariants)} hold"


def _container(figures: Figures) -> str:
    """Returns the use of resources; the metrics do not say whether it is that of a container or of a whole machine."""
    used, limit = figures["memory_bytes"], figures["memory_limit_bytes"]
    found = [f"memory {used / MIB:,.0f} of {limit / MIB:,.0f} MiB"] if used is not None and limit else []
    if figures["processors"] is not None and figures["processors_limit"]:
        found.append(f"processors {figures['processors']:.2f} of {figures['processors_limit']:g}")
    return f"Container or whole machine: {', '.join(found)}" if found else ""
