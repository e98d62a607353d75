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
    Part,
    Scrape,
    ScrapeDelta,
    StatusError,
    health,
    scrape,
)

# Counters, with the part that counts them: the other part exports a meaningless 0.
COUNTERS: Final[dict[str, tuple[Part, str, dict[str, str]]]] = {
    "stored": ("orchestrator", "comment_stored_total", {"kind": "new"}),
    "edited": ("orchestrator", "comment_stored_total", {"kind": "edited"}),
    "duplicates": ("orchestrator", "comment_duplicates_detected_total", {}),
    "batches": ("orchestrator", "comment_processing_success_total", {}),
    "refused_by_rate_limit": ("orchestrator", "comment_rate_limited_total", {}),
    "sent_again": ("orchestrator", "comment_outbox_resent_total", {}),
    "analysed": ("worker", ANALYSED, {"outcome": "done"}),
}
# As many errors as fit on a terminal of 24 rows with everything else; a pipe gets all of them.
ERRORS_SHOWN: Final = 4
Figures = dict[str, Any]


class Targets(NamedTuple):
    """The URLs of the service and of the metrics."""

    service: str
    metrics: tuple[str, ...]
    # The metrics of a running `up`, which include those of its worker, even if the worker has counted nothing yet.
    whole: str | None


@click.command
@click.option("--url", help=f"The service's address. [default: that of a running `up`, else {DEFAULT_URL}]")
@click.option(
    "--metrics-url",
    "metrics_urls",
    multiple=True,
    help="URL of a process's metrics; repeat it for each orchestrator and worker of the system. "
    "[default: that of a running `up`, else port 9090 of the host in --url]",
)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two reads of the metrics.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each refresh, for programs.")
@data_dir_option
def status(
    url: str | None, metrics_urls: tuple[str, ...], watch: bool, interval: float, as_json: bool, data_dir: Path
) -> None:
    """Show what a running system does: health, errors, rates, queue, backlog, latency and cache.

    Rates and percentiles are those of the last interval. The system measures its backlog every 5 seconds. A dash means
    that none of the named processes knows the value; a worker's figures are on its own --metrics-url. The exit code is
    1 if a process does not answer, or if the health of the service is not `ok`.
    """
    service = service_address(url, data_dir)
    targets = Targets(
        service,
        metrics_urls or (metrics_address(service, data_dir),),
        (read_endpoints(data_dir) or {}).get("METRICS_URL"),
    )
    results = _poll(targets, interval, patient=watch)
    try:
        if watch and not as_json and sys.stdout.isatty():
            _live(results)
        elif not _lines(results, as_json=as_json, watch=watch) and not watch:
            raise SystemExit(1)
    except KeyboardInterrupt:
        return


def _live(results: Iterable[Figures]) -> None:
    with Live(Text("Reading the metrics ..."), screen=False, auto_refresh=False) as live:
        for figures in results:
            live.update(screen(figures, errors=ERRORS_SHOWN), refresh=True)


def _lines(results: Iterable[Figures], *, as_json: bool, watch: bool) -> bool:
    """Writes each result as soon as it is available; returns whether the last one shows health `ok` and no problem."""
    console = Console()
    well = False
    for figures in results:
        well = figures.get("health") == "ok" and not figures.get("problems")
        with console.capture() as shown:
            console.print(screen(figures))
        try:
            # Flushed by click.
            click.echo(json.dumps(figures) if as_json else shown.get(), nl=as_json or watch)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # The reader of the pipe has closed it. Redirected, so that flushing the rest at exit does not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            break
        if not watch:
            break
    return well


def _poll(targets: Targets, interval: float, *, patient: bool) -> Iterator[Figures]:
    """Yields the figures of each interval.

    If the system does not answer: raises StatusError, or if `patient` yields the error and tries again.
    """
    before: Scrape | None = None
    since: str | None = None
    while True:
        try:
            state = health(targets.service)
            after = scrape(targets.metrics, targets.whole)
        except StatusError as error:
            if not patient:
                raise
            # Read once, so that the first failure has the same `time` and `since`.
            now = _now()
            since = since or now
            before = None
            yield {"time": now, "url": targets.service, "error": str(error), "since": since}
        else:
            since = None
            if before:
                yield {"time": _now(), "url": targets.service, **_state(*state), **_figures(ScrapeDelta(before, after))}
            before = after
        time.sleep(interval)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _state(state: str, checks: dict[str, str]) -> Figures:
    # Without the queue: among the figures it is a number, the sum of all processes.
    return {"health": state, "checks": {name: value for name, value in checks.items() if name != "queue"}}


def _figures(between: ScrapeDelta) -> Figures:
    parts = between.parts()
    of: dict[Part, ScrapeDelta] = {"orchestrator": between.of("orchestrator"), "worker": between.of("worker")}
    intake, workers = of["orchestrator"], of["worker"]
    hits, misses = (intake.rate(f"comment_dedup_cache_{kind}_total") or 0.0 for kind in ("hits", "misses"))
    broken = between.most_by("comment_invariant_violations", "invariant")
    return {
        "seconds": round(between.seconds, 3),
        "problems": list(between.after.problems),
        "metrics_of": {
            "orchestrators": parts.count(frozenset({"orchestrator"})),
            "workers": parts.count(frozenset({"worker"})),
            "both_in_one": parts.count(frozenset({"orchestrator", "worker"})),
        },
        "a_second": {key: of[part].rate(name, **labels) for key, (part, name, labels) in COUNTERS.items()},
        "since_start": {key: _whole(of[part].total(name, **labels)) for key, (part, name, labels) in COUNTERS.items()},
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
    return None if value is None else round(value)
