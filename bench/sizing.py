"""The table of docs/scaling.md: the resources for a number of comments a day, computed from docs/performance.json.

Everything is for the peak, except disk and Redis, which are for the average. Cores are at most three quarters busy.
Prices are assumptions; replace them by your own.
"""

import math
from statistics import median
from typing import Any, Final

import click

from bench.harness.page import DATA, runs
from bench.scaling import cores, production
from comment_monitor.core.config import load

MILLIONS: Final = (1, 10, 100, 1000)
SECONDS_A_DAY: Final = 86_400
BUSY: Final = 0.75
HEADINGS: Final = (
    "comments a day", "a second, average", "a second, peak", "API pods", "worker pods", "connections",
    "PostgreSQL, cores", "its log, MB/s", "disk, GB", "Redis, MB", "$ a month",
)  # fmt: skip


def measured(work: str) -> float:
    """Returns the sum of the medians of all rows whose `work` begins with this text.

    Raises:
        LookupError: no such row was measured.
    """
    rows = [row for run in runs().values() for row in run.rows if row.work.startswith(work)]
    if not rows:
        raise LookupError(f"{DATA.name} has no row {work!r}: run `python -m bench` first.")
    return sum(median(row.ours) for row in rows)


def size(millions: float, *, peak: float, days: int, values: dict[str, Any], core: float, gigabyte: float) -> list[str]:
    """Returns a line of the table.

    Args:
        millions: millions of comments a day.
        peak: the peak rate as a multiple of the average.
        days: days for which comments are kept.
        values: the chart's values.
        core: price of a core a month.
        gigabyte: price of a GB of disk a month.
    """
    average = millions * 1e6 / SECONDS_A_DAY
    most = average * peak
    storing = most * measured("processor time, 25 a request: the service") / 1e6
    analysing = most * measured("processor time, analysing: the worker") / 1e6
    database = most / 1e6 * (
        measured("processor time, 25 a request: PostgreSQL") + measured("processor time, analysing: PostgreSQL")
    )  # fmt: skip
    api, worker = values["orchestrator"], values["worker"]
    api_cores, worker_cores = (cores(part["resources"]["limits"]["cpu"]) for part in (api, worker))
    # A Python process uses at most one core, whatever its limit.
    pods = max(2, math.ceil(storing / BUSY / min(api_cores, 1)))
    workers = max(2, math.ceil(analysing / BUSY / min(worker_cores, worker["concurrency"])))
    own = load({})
    connections = pods * (own.writers + 2 + own.read_connections) + workers * worker["concurrency"] * 2
    disk = millions * 1e6 * days * measured("size: PostgreSQL") / 1e9
    redis = average * api["commentMonitoring"]["dedupCacheTTL"] * measured("size: Redis") / 1e6
    # PostgreSQL (at least two cores) and its disk count twice, for a standby; Redis and RabbitMQ count a core each.
    money = core * (pods * api_cores + workers * worker_cores + max(2, database / BUSY) * 2 + 2) + gigabyte * disk * 2
    log = most * measured("size: write-ahead log") / 1e6
    numbers = (millions * 1e6, average, most, pods, workers, connections, max(1, math.ceil(database / BUSY)), log, disk)
    return [f"{number:,.0f}" for number in (*numbers, redis, money)]


@click.command(help=__doc__)
@click.option("--peak", default=10.0, show_default=True, help="Peak rate as a multiple of the average.")
@click.option("--days", default=30, show_default=True, help="Days for which comments are kept.")
@click.option("--core", default=30.0, show_default=True, help="Price of a core a month.")
@click.option("--gigabyte", default=0.1, show_default=True, help="Price of a GB of disk a month.")
@click.option("--millions", multiple=True, type=float, default=MILLIONS, show_default=True, help="Comments a day.")
def main(peak: float, days: int, core: float, gigabyte: float, millions: tuple[float, ...]) -> None:
    """Runs the command line."""
    lines = [
        size(amount, peak=peak, days=days, values=production(), core=core, gigabyte=gigabyte) for amount in millions
    ]  # fmt: skip
    for line in (list(HEADINGS), ["---:"] * len(HEADINGS), *lines):
        click.echo(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
