"""`comment-monitor status`."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from comment_monitor.cli.settings import DEFAULT_URL, data_dir_option, metrics_address, service_address
from comment_monitor.cli.status_screen import screen
from comment_monitor.devserver.endpoints import read_endpoints
from comment_monitor.diagnostics.status import (
    ANALYSED,
    ANALYSIS,
    DURATION,
    QUEUE,
    Scrape,
    ScrapeDelta,
    StatusError,
    health,
    scrape,
)

# Counters by the part that counts: of the other part they are 0 and mean nothing.
TAKEN_IN: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "stored": ("comment_stored_total", {"kind": "new"}),
    "edited": ("comment_stored_total", {"kind": "edited"}),
    "duplicates": ("comment_duplicates_detected_total", {}),
    "batches": ("comment_processing_success_total", {}),
    "refused_by_rate_limit": ("comment_rate_limited_total", {}),
    "sent_again": ("comment_outbox_resent_total", {}),
}
WORKED_OFF: Final[dict[str, tuple[str, dict[str, str]]]] = {"analysed": (ANALYSED, {"outcome": "done"})}
# What fits a terminal of 24 rows with all the rest; a pipe gets all of them.
ERRORS_SHOWN: Final = 4
Figures = dict[str, Any]


class Asked(NamedTuple):
    """Who is asked."""

    service: str
    metrics: tuple[str, ...]
    # The one of them that a running `up` serves: its worker is in it, even before it did anything.
    whole: str | None


@click.command
@click.option("--url", help=f"The service's address. [default: that of a running `up`, else {DEFAULT_URL}]")
@click.option(
    "--metrics-url",
    "metrics_urls",
    multiple=True,
    help="Where a process tells its metrics; once for each process of a system, orchestrators and workers. "
    "[default: port 9090 beside --url]",
)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds of a look.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a look, for programs.")
@data_dir_option
def status(
    url: str | None, metrics_urls: tuple[str, ...], watch: bool, interval: float, as_json: bool, data_dir: Path
) -> None:
    """Show what a running system does: health, errors, rates, queue, backlog, latency and cache.

    What is told of a second is of the last interval. What waits for its analysis is looked at every 5 seconds. A dash:
    none of the processes asked knows it; a worker's figures are on its own --metrics-url. Exit code 1: one that is
    asked does not answer, or the service says that it is not well.
    """
    service = service_address(url, data_dir)
    asked = Asked(
        service,
        metrics_urls or (metrics_address(service, data_dir),),
        (read_endpoints(data_dir) or {}).get("METRICS_URL"),
    )
    looks = _looks(asked, interval, patient=watch)
    try:
        if watch and not as_json and sys.stdout.isatty():
            _live(looks)
        else:
            well = _lines(looks, as_json=as_json, watch=watch)
            if not (watch or well):
                raise SystemExit(1)
    except KeyboardInterrupt:
        return


def _live(looks: Iterable[Figures]) -> None:
    with Live(Text("Looking ..."), screen=False, auto_refresh=False) as live:
        for figures in looks:
            live.update(screen(figures, errors=ERRORS_SHOWN), refresh=True)


def _lines(looks: Iterable[Figures], *, as_json: bool, watch: bool) -> bool:
    """Writes each result as soon as it is available; returns whether all was well at the last."""
    console = Console()
    well = False
    for figures in looks:
        well = figures.get("health") == "ok" and not figures.get("problems")
        with console.capture() as shown:
            console.print(screen(figures))
        try:
            # Flushed by click.
            click.echo(json.dumps(figures) if as_json else shown.get(), nl=as_json or watch)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # Whoever read has seen enough. What is still in the buffer has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            break
        if not watch:
            break
    return well


def _looks(asked: Asked, interval: float, *, patient: bool) -> Iterator[Figures]:
    """`patient`: a system that does not answer is told of, and asked again; else it is an error."""
    before: Scrape | None = None
    since: str | None = None
    while True:
        try:
            state = health(asked.service)
            after = scrape(asked.metrics, asked.whole)
        except StatusError as error:
            if not patient:
                raise
            # Read once a look: the first that fails is the moment since when it is so.
            now = _now()
            since = since or now
            before = None
            yield {"time": now, "url": asked.service, "error": str(error), "since": since}
        else:
            since = None
            if before:
                yield {"time": _now(), "url": asked.service, **_state(*state), **_figures(ScrapeDelta(before, after))}
            before = after
        time.sleep(interval)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _state(state: str, checks: dict[str, str]) -> Figures:
    # The queue is a number, and of all processes: it is among the figures.
    return {"health": state, "checks": {name: value for name, value in checks.items() if name != "queue"}}


def _figures(between: ScrapeDelta) -> Figures:
    parts = between.parts()
    intake, workers = between.of("orchestrator"), between.of("worker")
    hits, misses = (intake.rate(f"comment_dedup_cache_{one}_total") or 0.0 for one in ("hits", "misses"))
    counters = [(intake, TAKEN_IN), (workers, WORKED_OFF)]
    broken = between.most_by("comment_invariant_violations", "invariant")
    return {
        "seconds": round(between.seconds, 3),
        "problems": list(between.after.problems),
        "metrics_of": {
            "orchestrators": parts.count(frozenset({"orchestrator"})),
            "workers": parts.count(frozenset({"worker"})),
            "both_in_one": parts.count(frozenset({"orchestrator", "worker"})),
        },
        "a_second": {key: of.rate(name, **by) for of, all_ in counters for key, (name, by) in all_.items()},
        "since_start": {key: _whole(of.total(name, **by)) for of, all_ in counters for key, (name, by) in all_.items()},
        "queue": _whole(between.now(QUEUE)),
        "backlog": _whole(between.most("comment_analysis_backlog")),
        "oldest_seconds": between.most("comment_analysis_oldest_seconds"),
        "invariants": {name: int(violations) for name, violations in sorted(broken.items())} or None,
        "batch_seconds": intake.quantiles(DURATION),
        "analysis_seconds": workers.quantiles(ANALYSIS),
        "slowest_statement": between.slowest(),
        "cache_hit_rate": hits / (hits + misses) if hits + misses else None,
        "duplicates": {
            tier: rate for tier, (rate, _) in sorted(intake.by("comment_duplicates_detected_total", "tier").items())
        },
        "errors": {
            reason: {"a_second": rate, "since_start": int(total)}
            for reason, (rate, total) in sorted(between.by("comment_processing_errors_total", "reason").items())
            if total
        },
        "memory_bytes": _whole(between.now("comment_container_memory_working_set_bytes")),
        "memory_limit_bytes": _whole(between.now("comment_container_memory_limit_bytes")),
        "processors": between.rate("comment_container_cpu_usage_seconds_total"),
        "processors_limit": between.now("comment_container_cpu_limit_cores"),
    }


def _whole(value: float | None) -> int | None:
    """A count is no fraction."""
    return None if value is None else round(value)
