"""`comment-monitor status`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from comment_monitor.cli.settings import DEFAULT_URL, data_dir_option, metrics_address, service_address
from comment_monitor.status import ANALYSIS, DURATION, QUANTILES, Between, Look, StatusError, health, look

GOOD: Final = {"ok": "green", "degraded": "yellow", "draining": "yellow"}
MIB: Final = 1024 * 1024
COLUMNS: Final = 3
Figures = dict[str, Any]


@click.command
@click.option("--url", help=f"The service's address. [default: that of a running `up`, else {DEFAULT_URL}]")
@click.option(
    "--metrics-url",
    "metrics_urls",
    multiple=True,
    help="Where a process tells its metrics; once for each process of a system. [default: port 9090 beside --url]",
)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds of a look.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a look, for programs.")
@data_dir_option
def status(
    url: str | None, metrics_urls: tuple[str, ...], watch: bool, interval: float, as_json: bool, data_dir: Path
) -> None:
    """Show what a running system does: health, rates, queue, backlog, latency, cache and errors.

    What is told of a second is of the last interval. Exit code 1: it does not answer, or says that it is not well.
    """
    address = service_address(url, data_dir)
    metrics = metrics_urls or (metrics_address(address, data_dir),)
    well = True
    looks = _looks(address, metrics, interval, patient=watch)
    try:
        if not watch or as_json:
            for figures in looks:
                well = figures.get("health") == "ok"
                click.echo(json.dumps(figures)) if as_json else Console().print(_screen(figures))
                if not watch:
                    break
        else:
            with Live(Text("Looking ..."), screen=False, auto_refresh=False) as live:
                for figures in looks:
                    live.update(_screen(figures), refresh=True)
    except KeyboardInterrupt:
        return
    if not well:
        raise SystemExit(1)


def _looks(address: str, metrics: tuple[str, ...], interval: float, *, patient: bool) -> Iterator[Figures]:
    """`patient`: a system that does not answer is told of, and asked again; else it is an error."""
    before: Look | None = None
    while True:
        try:
            after = look(metrics)
            figures = _figures(address, Between(before, after)) if before else None
        except StatusError as error:
            if not patient:
                raise
            before, figures = None, {"error": str(error)}
        else:
            before = after
        if figures:
            yield figures
        time.sleep(interval)


def _figures(address: str, between: Between) -> Figures:
    state, checks = health(address)
    hits, misses = (between.rate(f"comment_dedup_cache_{one}_total") for one in ("hits", "misses"))
    return {
        "url": address,
        "seconds": round(between.seconds, 3),
        "health": state,
        "checks": checks,
        "a_second": {
            "stored": between.rate("comment_stored_total", kind="new"),
            "edited": between.rate("comment_stored_total", kind="edited"),
            "duplicates": between.rate("comment_duplicates_detected_total"),
            "analysed": between.rate("comment_analysis_total", outcome="done"),
            "batches": between.rate("comment_processing_success_total"),
            "refused_by_rate_limit": between.rate("comment_rate_limited_total"),
            "sent_again": between.rate("comment_outbox_resent_total"),
        },
        "queue": between.now("comment_processing_queue_length"),
        "backlog": between.most("comment_analysis_backlog"),
        "batch_seconds": between.quantiles(DURATION),
        "analysis_seconds": between.quantiles(ANALYSIS),
        "slowest_statement": between.slowest(),
        "cache_hit_rate": hits / (hits + misses) if hits + misses else None,
        "duplicates": {
            tier: rate for tier, (rate, _) in between.by("comment_duplicates_detected_total", "tier").items()
        },
        "errors": {
            reason: {"a_second": rate, "since_start": total}
            for reason, (rate, total) in sorted(between.by("comment_processing_errors_total", "reason").items())
            if total
        },
        "memory_bytes": between.now("comment_container_memory_working_set_bytes"),
        "memory_limit_bytes": between.now("comment_container_memory_limit_bytes"),
        "processors": between.rate("comment_container_cpu_usage_seconds_total"),
        "processors_limit": between.now("comment_container_cpu_limit_cores"),
    }


def _screen(figures: Figures) -> Group:
    if error := figures.get("error"):
        return Group(Text(error, style="bold red"))
    return Group(_head(figures), _flow(figures), _latency(figures), _errors(figures))


def _head(figures: Figures) -> Panel:
    state = figures["health"]
    line = Text.assemble((state, f"bold {GOOD.get(state, 'red')}"), f"  {figures['url']}")
    checks = "   ".join(f"{name} {value}" for name, value in figures["checks"].items())
    return Panel(Text.assemble(line, "\n", checks), title="comment-monitor", title_align="left")


def _flow(figures: Figures) -> Panel:
    rates, hit = figures["a_second"], figures["cache_hit_rate"]
    cells = (
        ("stored", f"{rates['stored']:,.0f}/s"),
        ("in the queue", f"{figures['queue']:,.0f}"),
        ("Redis knew", "-" if hit is None else f"{hit:.0%}"),
        ("edited", f"{rates['edited']:,.0f}/s"),
        ("not yet analysed", f"{figures['backlog']:,.0f}"),
        ("rate limited", f"{rates['refused_by_rate_limit']:,.1f}/s"),
        ("duplicates", f"{rates['duplicates']:,.0f}/s"),
        ("analysed", f"{rates['analysed']:,.0f}/s"),
        ("sent again", f"{rates['sent_again']:,.1f}/s"),
    )
    grid = Table.grid(padding=(0, 1), expand=True)
    for _ in range(COLUMNS):
        grid.add_column(style="dim")
        grid.add_column(justify="right", style="bold")
        grid.add_column(width=2)
    for at in range(0, len(cells), COLUMNS):
        grid.add_row(*(part for name, value in cells[at : at + COLUMNS] for part in (name, value, "")))
    return Panel(grid, title=f"comments, over {figures['seconds']:.1f} s", title_align="left")


def _latency(figures: Figures) -> Table:
    table = Table(title="seconds", title_justify="left", expand=True)
    table.add_column("what")
    for quantile in QUANTILES:
        table.add_column(f"p{quantile * 100:.0f}", justify="right")
    for name, values in (
        ("a batch, from its arrival to its commit", figures["batch_seconds"]),
        ("a batch's analysis", figures["analysis_seconds"]),
    ):
        table.add_row(name, *(f"{one:.3f}" for one in values) if values else ["-"] * len(QUANTILES))
    if slowest := figures["slowest_statement"]:
        table.add_row(f"slowest statement: {slowest[0]}", "", f"{slowest[1]:.3f}", "")
    used, limit = figures["memory_bytes"], figures["memory_limit_bytes"]
    if limit:
        table.caption = (
            f"memory {used / MIB:,.0f} of {limit / MIB:,.0f} MiB, "
            f"processors {figures['processors']:.2f} of {figures['processors_limit']:.0f}"
        )
    return table


def _errors(figures: Figures) -> RenderableType:
    if not figures["errors"]:
        return Text("No errors since the start.", style="green")
    table = Table(title="errors", title_justify="left", expand=True)
    table.add_column("reason")
    table.add_column("a second", justify="right")
    table.add_column("since the start", justify="right")
    worst = sorted(figures["errors"].items(), key=lambda one: (-one[1]["a_second"], -one[1]["since_start"]))
    for reason, counts in worst:
        style = "red" if counts["a_second"] else None
        table.add_row(reason, f"{counts['a_second']:,.2f}", f"{counts['since_start']:,.0f}", style=style)
    return table
