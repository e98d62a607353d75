"""Every expression of the dashboard and the runbooks has data in a Prometheus that scrapes the system under load.

The load includes a Redis outage, repeats, edits, refusals and exceeded rate limits: an expression without data has
a wrong name, label or function. A celery-exporter is not among the packages of PyPI or Debian (a package of that name
is another program): tests/chart/test_dashboard.py checks its panels against its documented names, and a test here
checks the events that it counts.
"""

import asyncio
import itertools
import math
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg2
from tests.chart.conftest import tool
from tests.conftest import Broker, need_rabbitmq, project_root, until
from tests.support import dashboard, http
from tests.support.dashboard import Expression
from tests.support.prometheus import Prometheus, Series
from tests.support.requests import body, comment
from tests.support.system import System
from tests.support.watched import NAMESPACE, Watched, watched

from comment_monitor.core.config import load
from comment_monitor.maintenance.scheduler import BACKLOG_INTERVAL
from comment_monitor.messaging.celery_app import ANALYSE, make_celery

SCRAPE: Final = 1.0
STEP: Final = 1.0
PAUSE: Final = 0.15
CHOSEN: Final = {"namespace": NAMESPACE, "pod": ".*", "broker": NAMESPACE}
# Metrics that are missing here, and why.
NOT_HERE: Final = {"celery_": "the celery-exporter is published as a container image and a binary only"}
# The runbooks use ranges of minutes, and this system runs for less than a minute.
SHORTER: Final = re.compile(r"\[\d+[mh]\]")
OF_REDIS: Final = ("cache", "rate-limit-store")
# Panels that have data, which is zero while nothing is wrong.
QUIET: Final = {
    "Violated invariants", "Batches sent again", "Database errors",
}  # fmt: skip

IMPATIENT, WAITING = "192.0.2.1", "192.0.2.2"


async def send(client: httpx.AsyncClient, url: str, sender: str, content: dict[str, Any]) -> int:
    """Sends a request of the client at this address through a trusted proxy; returns the status."""
    answer = await client.post(f"{url}/comments/process", json=content, headers={"X-Forwarded-For": sender})
    return answer.status_code


async def one_round(client: httpx.AsyncClient, url: str, number: int) -> set[int]:
    """Sends new comments, some twice in a request, edits, repeats and an invalid comment; returns the statuses."""
    new = [comment(f"{number}-{index}") for index in range(20)]
    edited = [comment(f"{number}-{index}", f"edited, round {number}") for index in range(5)]
    # Each address has its own rate limit; the last address exceeds it.
    network = f"10.{number // 256}.{number % 256}"
    requests = [
        (f"{network}.1", body(*new, *new[:5])),
        (f"{network}.2", body(*new)),
        (f"{network}.3", body(*edited)),
        (f"{network}.4", body(comment("blank", " "))),
        *((IMPATIENT, body(*new[:1])) for _ in range(4)),
    ]
    return {await send(client, url, sender, content) for sender, content in requests}


def is_known(here: Watched, *conditions: str) -> bool:
    """Returns whether Prometheus has data for all of these expressions."""
    return all(here.prometheus.query(condition, time.time()) for condition in conditions)


async def load_of_all_kinds(here: Watched) -> set[int]:
    """Sends requests until every kind of event was scraped, on a slow machine too; returns the statuses."""
    seen: set[int] = set()
    numbers = itertools.count()

    async def go_on(seconds: float, *conditions: str) -> None:
        end = time.monotonic() + seconds
        async with asyncio.timeout(60):
            while time.monotonic() < end or not is_known(here, *conditions):
                seen.update(await one_round(client, here.system.url, next(numbers)))
                await asyncio.sleep(PAUSE)

    async with http.AsyncClient(timeout=60) as client:
        await go_on(3)
        here.redis.stop()
        await go_on(3, *(f'comment_processing_errors_total{{reason="{reason}"}} > 0' for reason in OF_REDIS))
        here.redis.start()
        await queue_that_waits(client, here)
        here.hold_worker()
        # The backlog is measured every five seconds.
        waits = ("comment_analysis_backlog > 0", "comment_analysis_oldest_seconds > 0")
        await go_on(BACKLOG_INTERVAL + 2 * SCRAPE, *waits)
        here.release_worker()
        await go_on(3, "comment_rate_limited_total > 0")
    return seen


async def queue_that_waits(client: httpx.AsyncClient, here: Watched) -> None:
    """Keeps a comment in the queue for some scrapes, by a lock on the table."""
    holder = psycopg2.connect(here.system.dsn)
    try:
        holder.cursor().execute("LOCK TABLE comments IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(send(client, here.system.url, WAITING, body(comment("waits"))))
        await asyncio.sleep(3 * SCRAPE)
        # At most as long as a statement may take: otherwise the request is refused.
        await until(lambda: is_known(here, "comment_processing_queue_length > 0"), seconds=20)
    finally:
        holder.close()
    assert await waiting == 200


async def when_all_answer(prometheus: Prometheus) -> int:
    """Returns a time at which every target's last scrape succeeded: on a busy machine scrapes may time out."""
    moments: list[int] = []

    def all_answer() -> bool:
        moments.append(int(time.time()))
        return len(prometheus.query("up == 1", moments[-1])) == len(prometheus.query("up", moments[-1]))

    await until(all_answer)
    return moments[-1]


def evaluated(prometheus: Prometheus, expression: Expression, start: float, end: float) -> list[Series]:
    """Returns the series that Grafana would get."""
    text = dashboard.filled(expression.text, step=STEP, scrape=SCRAPE, seconds=end - start, chosen=CHOSEN)
    return prometheus.query_range(text, start, end, STEP)


def of_runbooks() -> list[Expression]:
    """Returns the expressions of the runbooks, for the namespace of this test."""
    found = []
    for path in sorted((project_root() / "docs" / "runbooks").glob("*.md")):
        blocks = re.findall(r"^```promql\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        lines = [line.replace("$NS", NAMESPACE) for block in blocks for line in block.splitlines()]
        found += [Expression("runbooks", path.stem, SHORTER.sub("[5s]", line), line, instant=False) for line in lines]
    return found


def values(series: Iterable[Series]) -> list[float]:
    return [value for entry in series for _, value in entry.samples if math.isfinite(value)]


def elsewhere(expression: Expression) -> bool:
    return any(name in expression.text for name in NOT_HERE)


async def test_every_expression_has_data(tmp_path: Path, dsn: str) -> None:
    need_rabbitmq()
    settings = {
        "COMMENT_RATE_LIMIT_PER_MINUTE": "50",
        "COMMENT_TRUSTED_PROXIES": "127.0.0.1",
        "COMMENT_CHECK_INTERVAL": "1",
    }
    shown = dashboard.load()
    async with watched(tool("prometheus"), tmp_path, dsn, scrape=SCRAPE, **settings) as here:
        await here.system.until_working()
        start = int(time.time())
        assert await load_of_all_kinds(here) >= {200, 422, 429}
        await here.system.until_analysed()
        # The last events are scraped too.
        await asyncio.sleep(3 * SCRAPE)
        end = await when_all_answer(here.prometheus)
        found = {
            expression: values(evaluated(here.prometheus, expression, start, end))
            for expression in dashboard.expressions(shown)
        }
        [annotation] = shown["annotations"]["list"]
        pages = {expression: values(evaluated(here.prometheus, expression, start, end)) for expression in of_runbooks()}
        firing = Expression("", "annotation", annotation["expr"], "", instant=False)
        found[firing] = values(evaluated(here.prometheus, firing, start, end))
        here.system.has_no_complaints()
    empty = [str(expression) for expression, got in found.items() if not got and not elsewhere(expression)]
    assert not empty, "No data:\n" + "\n".join(empty)
    assert len(pages) > 20
    assert not [str(expression) for expression, got in pages.items() if not got]
    here_after_all = [str(expression) for expression, got in found.items() if got and elsewhere(expression)]
    assert not here_after_all, "Not to be listed in NOT_HERE:\n" + "\n".join(here_after_all)
    moved = {expression.panel for expression, got in found.items() if any(got)}
    still = {expression.panel for expression in found if not elsewhere(expression)} - moved
    assert still == QUIET, f"Always zero, or no longer: {sorted(still ^ QUIET)}"
    # A healthy state is shown at the end: no process exports a value that it does not know.
    last = {expression.panel: got[-1] for expression, got in found.items() if got}
    assert last["Database usable"] == last["Migrated"] == last["Workers that answer"] == 1


async def test_the_worker_sends_the_events_that_the_celery_exporter_counts(
    tmp_path: Path, rabbitmq: Broker, environment: dict[str, str]
) -> None:
    system = System(tmp_path, {**environment, "CELERY_BROKER_URL": rabbitmq.url})
    app = make_celery(load({**environment, "CELERY_BROKER_URL": rabbitmq.url}))
    events: list[dict[str, Any]] = []
    try:
        await system.start()
        await system.until_working()
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": events.append})
            listening = asyncio.create_task(asyncio.to_thread(receiver.capture, None, 60, False))

            async def both_received() -> bool:
                app.control.enable_events()
                await system.post(comment(str(len(events))))
                return {"task-received", "task-succeeded"} <= {event["type"] for event in events}

            await until(both_received)
            receiver.should_stop = True
            await listening
    finally:
        system.end()
    assert {event["name"] for event in events if event["type"] == "task-received"} == {ANALYSE}
    assert all(event["runtime"] > 0 for event in events if event["type"] == "task-succeeded")
