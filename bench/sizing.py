"""What so many comments a day need, reckoned from what bench measured (docs/performance.json): docs/scaling.md's table.

Everything is for the peak but disk and Redis, which are for the average. Cores are to be three quarters busy at the
most. Prices are assumptions to be replaced by one's own.
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
    """The sum of the medians of all rows that begin so.

    Raises:
        LookupError: nothing of the kind was measured.
    """
    rows = [row for run in runs().values() for row in run.rows if row.work.startswith(work)]
    if not rows:
        raise LookupError(f"{DATA.name} has no row {work!r}: run `python -m bench` first.")
    return sum(median(row.ours) for row in rows)


def size(millions: float, *, peak: float, days: int, values: dict[str, Any], core: float, gigabyte: float) -> list[str]:
    """A line of the table.

    Args:
        millions: of comments a day.
        peak: times the average.
        days: that comments are kept.
        values: of the chart.
        core: its price a month.
        gigabyte: that of a GB of disk.
    """
    average = millions * 1e6 / SECONDS_A_DAY
    most = average * peak
    storing = most * measured("processor time, 25 a request: the service") / 1e6
    analysing = most * measured("processor time, analysing: the worker") / 1e6
    database = most / 1e6 * (
        measured("processor time, 25 a request: PostgreSQL") + measured("processor time, analysing: PostgreSQL")
    )  # fmt: skip
    api, worker = values["orchestrator"], values["worker"]
    api_cores, worker_cores = (cores(one["resources"]["limits"]["cpu"]) for one in (api, worker))
    # A process of Python has no use for more than one core, whatever its limit.
    pods = max(2, math.ceil(storing / BUSY / min(api_cores, 1)))
    workers = max(2, math.ceil(analysing / BUSY / min(worker_cores, worker["concurrency"])))
    own = load({})
    connections = pods * (own.writers + 2 + own.read_connections) + workers * worker["concurrency"] * 2
    disk = millions * 1e6 * days * measured("size: PostgreSQL") / 1e9
    redis = average * api["commentMonitoring"]["dedupCacheTTL"] * measured("size: Redis") / 1e6
    # PostgreSQL, two cores at least, and its disk twice, for a standby too; a core each for Redis and RabbitMQ.
    money = core * (pods * api_cores + workers * worker_cores + max(2, database / BUSY) * 2 + 2) + gigabyte * disk * 2
    log = most * measured("size: write-ahead log") / 1e6
    numbers = (millions * 1e6, average, most, pods, workers, connections, max(1, math.ceil(database / BUSY)), log, disk)
    return [f"{number:,.0f}" for number in (*numbers, redis, money)]


@click.command(help=__doc__)
@click.option("--peak", default=10.0, show_default=True, help="Times the average.")
@click.option("--days", default=30, show_default=True, help="That comments are kept.")
@click.option("--core", default=30.0, show_default=True, help="Price of a core a month.")
@click.option("--gigabyte", default=0.1, show_default=True, help="Price of a GB of disk a month.")
@click.option("--millions", multiple=True, type=float, default=MILLIONS, show_default=True, help="Comments a day.")
def main(peak: float, days: int, core: float, gigabyte: float, millions: tuple[float, ...]) -> None:
    """See above."""
    lines = [
        size(one, peak=peak, days=days, values=production(), core=core, gigabyte=gigabyte) for one in millions
    ]  # fmt: skip
    for line in (list(HEADINGS), ["---:"] * len(HEADINGS), *lines):
        click.echo(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
