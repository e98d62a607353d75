"""Every expression of dashboard and runbooks, asked of a real Prometheus that scrapes the real system under a load.

Redis is away for a moment, and something is known, edited, refused and over the rate limit: what has no data then has
a wrong name, label or function. A celery-exporter is not among the packages of PyPI or Debian (one of that name there
is another program), so its panels are held to its documented names by tests/chart/test_dashboard.py, and to the events
that it counts here.
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
# Metrics that are not here, and why.
NOT_HERE: Final = {"celery_": "the celery-exporter is published as a container image and a binary only"}
# The pages look back over minutes, and the system here lives for less than one.
SHORTER: Final = re.compile(r"\[\d+[mh]\]")
OF_REDIS: Final = ("cache", "rate-limit-store")
# Panels that show zero where nothing is wrong; their data is here, and is zero.
QUIET: Final = {
    "Violated invariants", "Batches sent again", "Database errors",
}  # fmt: skip

IMPATIENT, WAITING = "192.0.2.1", "192.0.2.2"


async def send(client: httpx.AsyncClient, url: str, sender: str, content: dict[str, Any]) -> int:
    """One request of the client at this address, through a proxy that the service trusts."""
    answer = await client.post(f"{url}/comments/process", json=content, headers={"X-Forwarded-For": sender})
    return answer.status_code


async def one_round(client: httpx.AsyncClient, url: str, number: int) -> set[int]:
    """New comments, some of them twice in a request, edits, known ones, one that is refused."""
    new = [comment(f"{number}-{index}") for index in range(20)]
    edited = [comment(f"{number}-{index}", f"edited, round {number}") for index in range(5)]
    # Each address has a limit of its own; the last of them is over it.
    one_time = f"10.{number // 256}.{number % 256}"
    requests = [
        (f"{one_time}.1", body(*new, *new[:5])),
        (f"{one_time}.2", body(*new)),
        (f"{one_time}.3", body(*edited)),
        (f"{one_time}.4", body(comment("blank", " "))),
        *((IMPATIENT, body(*new[:1])) for _ in range(4)),
    ]
    return {await send(client, url, sender, content) for sender, content in requests}


def is_known(here: Watched, *conditions: str) -> bool:
    """Whether Prometheus has come to know of all of these."""
    return all(here.prometheus.query(one, time.time()) for one in conditions)


async def load_of_all_kinds(here: Watched) -> set[int]:
    """Until every kind of thing has happened, each for some scrapes, however slow the machine is."""
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
        await go_on(3, *(f'comment_processing_errors_total{{reason="{one}"}} > 0' for one in OF_REDIS))
        here.redis.start()
        await queue_that_waits(client, here)
        here.hold_worker()
        # What waits is measured every five seconds.
        waits = ("comment_analysis_backlog > 0", "comment_analysis_oldest_seconds > 0")
        await go_on(BACKLOG_INTERVAL + 2 * SCRAPE, *waits)
        here.release_worker()
        await go_on(3, "comment_rate_limited_total > 0")
    return seen


async def queue_that_waits(client: httpx.AsyncClient, here: Watched) -> None:
    """Comments that can't be committed for some scrapes, because somebody else holds the table."""
    holder = psycopg2.connect(here.system.dsn)
    try:
        holder.cursor().execute("LOCK TABLE comments IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(send(client, here.system.url, WAITING, body(comment("waits"))))
        await asyncio.sleep(3 * SCRAPE)
        # No longer than a statement may take, or the request is refused.
        await until(lambda: is_known(here, "comment_processing_queue_length > 0"), seconds=20)
    finally:
        holder.close()
    assert await waiting == 200


async def when_all_answer(prometheus: Prometheus) -> int:
    """A moment at which each part was scraped last: on a busy machine a scrape may come too late."""
    moments: list[int] = []

    def all_answer() -> bool:
        moments.append(int(time.time()))
        return len(prometheus.query("up == 1", moments[-1])) == len(prometheus.query("up", moments[-1]))

    await until(all_answer)
    return moments[-1]


def asked(prometheus: Prometheus, one: Expression, start: float, end: float) -> list[Series]:
    """What Grafana would get."""
    text = dashboard.filled(one.text, step=STEP, scrape=SCRAPE, seconds=end - start, chosen=CHOSEN)
    return prometheus.query_range(text, start, end, STEP)


def of_runbooks() -> list[Expression]:
    """The expressions of their pages, for the namespace that is there."""
    found = []
    for path in sorted((project_root() / "docs" / "runbooks").glob("*.md")):
        blocks = re.findall(r"^```promql\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        lines = [line.replace("$NS", NAMESPACE) for block in blocks for line in block.splitlines()]
        found += [Expression("runbooks", path.stem, SHORTER.sub("[5s]", line), line, instant=False) for line in lines]
    return found


def values(series: Iterable[Series]) -> list[float]:
    return [value for one in series for _, value in one.samples if math.isfinite(value)]


def elsewhere(one: Expression) -> bool:
    return any(name in one.text for name in NOT_HERE)


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
        # The last of it is scraped too.
        await asyncio.sleep(3 * SCRAPE)
        end = await when_all_answer(here.prometheus)
        found = {one: values(asked(here.prometheus, one, start, end)) for one in dashboard.expressions(shown)}
        [annotation] = shown["annotations"]["list"]
        pages = {one: values(asked(here.prometheus, one, start, end)) for one in of_runbooks()}
        firing = Expression("", "annotation", annotation["expr"], "", instant=False)
        found[firing] = values(asked(here.prometheus, firing, start, end))
        here.system.has_no_complaints()
    empty = [str(one) for one, got in found.items() if not got and not elsewhere(one)]
    assert not empty, "No data:\n" + "\n".join(empty)
    assert len(pages) > 20
    assert not [str(one) for one, got in pages.items() if not got]
    here_after_all = [str(one) for one, got in found.items() if got and elsewhere(one)]
    assert not here_after_all, "Not to be listed in NOT_HERE:\n" + "\n".join(here_after_all)
    moved = {one.panel for one, got in found.items() if any(got)}
    still = {one.panel for one in found if not elsewhere(one)} - moved
    assert still == QUIET, f"Always zero, or no longer: {sorted(still ^ QUIET)}"
    # What is well at the end is shown to be: no process tells a value that it does not know.
    last = {one.panel: got[-1] for one, got in found.items() if got}
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

            async def told() -> bool:
                app.control.enable_events()
                await system.post(comment(str(len(events))))
                return {"task-received", "task-succeeded"} <= {one["type"] for one in events}

            await until(told)
            receiver.should_stop = True
            await listening
    finally:
        system.end()
    assert {one["name"] for one in events if one["type"] == "task-received"} == {ANALYSE}
    assert all(one["runtime"] > 0 for one in events if one["type"] == "task-succeeded")
