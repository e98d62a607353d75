"""The sweep: rows that were not analysed in time are sent again, by any process, while a broker is available."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import amqp
import pytest
from tests.conftest import Broker, MakeSettings, execute, metric, open_client, until
from tests.support.database import holding, opened, outbox, stored_comments, take_in
from tests.support.messages import Wire, channel, messages, outbox_ids
from tests.support.requests import comment, parsed

from comment_monitor.core.config import Settings
from comment_monitor.intake.dedup_cache import DedupCache
from comment_monitor.maintenance.scheduler import SWEEP_BATCH, Scheduler
from comment_monitor.messaging.analysis_rate import LEAST_ROWS, ROWS_AT_FIRST
from comment_monitor.messaging.celery_app import QUEUE_NAME, make_celery
from comment_monitor.messaging.publisher import QUEUE_LIMIT, Publisher
from comment_monitor.runtime import open_runtime
from comment_monitor.storage import outbox as statements
from comment_monitor.storage.readiness import DatabaseState


def overdue(settings: Settings, amount: int) -> None:
    """Inserts due outbox rows; their comments need not exist, because no row is analysed here."""
    rows = f"SELECT '{{1}}', now() - interval '1 s' FROM generate_series(1, {amount})"  # noqa: S608 - a number
    execute(settings.postgres_dsn, f"INSERT INTO analysis_outbox (comment_ids, due_at) {rows}")


@pytest.fixture
def broker_url(rabbitmq: Broker) -> str:
    return rabbitmq.url


@pytest.fixture
def settings(make_settings: MakeSettings, broker_url: str) -> Settings:
    return make_settings(CELERY_BROKER_URL=broker_url, COMMENT_RESEND_AFTER=600)


@pytest.fixture
def wire(broker_url: str) -> Iterator[Wire]:
    wire = Wire(broker_url)
    yield wire
    wire.close()


@asynccontextmanager
async def scheduler(settings: Settings, *, unavailable: bool = False) -> AsyncIterator[tuple[Scheduler, Publisher]]:
    """Yields the periodic jobs of a process, run by the test; everything is sent at the end of the block."""
    publisher = Publisher(make_celery(settings))
    await until(lambda: unavailable or publisher.free_capacity > 0)
    async with opened(settings) as database:
        yield Scheduler(settings, database, DatabaseState(), DedupCache(None, ttl=1), publisher), publisher
    publisher.close(timeout=60)


def fill(url: str, amount: int) -> None:
    """Puts messages of another program into the worker queue."""
    with channel(url) as broker_channel:
        # Messages to an undeclared queue would be lost.
        broker_channel.queue_declare(QUEUE_NAME, durable=True, auto_delete=False)
        for _ in range(amount):
            broker_channel.basic_publish(amqp.Message("[[0], {}, {}]"), routing_key=QUEUE_NAME)


def depth(url: str) -> int:
    """Returns the number of messages in the queue."""
    with channel(url) as broker_channel:
        declared = broker_channel.queue_declare(QUEUE_NAME, passive=True)
        assert declared
        return declared[1]


async def sweep(settings: Settings) -> None:
    async with scheduler(settings) as (jobs, _):
        await jobs.sweep()


async def test_only_overdue_rows_are_sent_again(settings: Settings) -> None:
    for number in range(3):
        await take_in(settings, comment(number))
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET resends = 0, due_at = now() + interval '600 s'")
    first, second, third = outbox(settings.postgres_dsn)
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET due_at = now() WHERE id = {second.id}")  # noqa: S608
    count = metric("comment_outbox_resent_total")
    await sweep(settings)
    assert outbox_ids(settings.broker_url) == [second.id]
    assert metric("comment_outbox_resent_total") == count + 1
    after = outbox(settings.postgres_dsn)
    assert [row.resends for row in after] == [0, 1, 0]
    assert [row.due_at for row in after] == [first.due_at, after[1].due_at, third.due_at]


async def test_a_sent_row_is_due_again_only_after_the_resend_time(settings: Settings) -> None:
    async with open_runtime(settings, application="test") as runtime:
        await until(lambda: runtime.publisher.free_capacity > 0)
        await runtime.pipeline.process(parsed(comment(1)))
    (row,) = outbox(settings.postgres_dsn)
    assert (row.resends, 500 < row.due_in <= 600) == (0, True)
    assert outbox_ids(settings.broker_url) == [row.id]


async def test_rows_stored_without_a_broker_are_sent_in_the_next_sweep(settings: Settings) -> None:
    """The rows need not wait for the resend time, and the first sending counts as no resend."""
    await take_in(settings, *map(comment, range(25)))
    unsent = outbox(settings.postgres_dsn)
    assert all((row.resends, row.due_in <= 0) == (-1, True) for row in unsent)
    count = metric("comment_outbox_resent_total")
    await sweep(settings)
    assert sorted(outbox_ids(settings.broker_url)) == [row.id for row in unsent]
    assert metric("comment_outbox_resent_total") == count
    assert all((row.resends, 400 < row.due_in < 800) == (0, True) for row in outbox(settings.postgres_dsn))


async def test_the_worker_queue_is_bounded_and_the_rest_waits_in_the_outbox(settings: Settings) -> None:
    """The broker holds a bounded number of messages for any backlog, and rows that merely wait are not sent again."""
    fill(settings.broker_url, QUEUE_LIMIT - 5)
    overdue(settings, 20)
    async with scheduler(settings) as (jobs, publisher):
        assert publisher.free_capacity == 5
        await jobs.sweep()
        await until(lambda: publisher.free_capacity == 0 and depth(settings.broker_url) == QUEUE_LIMIT)
        await jobs.sweep()
    assert Counter(row.resends for row in outbox(settings.postgres_dsn)) == {0: 15, 1: 5}
    async with open_runtime(settings, application="test") as runtime:
        await until(lambda: runtime.publisher.state == "ok")
        assert (await runtime.pipeline.process(parsed(comment(1)))).stored == 1
    assert depth(settings.broker_url) == QUEUE_LIMIT
    assert outbox(settings.postgres_dsn)[-1].resends == -1
    messages(settings.broker_url)
    await sweep(settings)
    assert len(outbox_ids(settings.broker_url)) == 16


@pytest.mark.parametrize("resends", range(4))
async def test_each_resend_is_followed_by_a_longer_wait_with_jitter(
    make_settings: MakeSettings, broker_url: str, resends: int
) -> None:
    settings = make_settings(CELERY_BROKER_URL=broker_url, COMMENT_RESEND_AFTER=30, COMMENT_BACKOFF_MULTIPLIER=3)
    overdue(settings, 40)
    execute(settings.postgres_dsn, f"UPDATE analysis_outbox SET resends = {resends}")  # noqa: S608
    await sweep(settings)
    waits = [row.due_in for row in outbox(settings.postgres_dsn)]
    middle = 30 * 3 ** (resends + 1)
    # The jitter is a quarter in both directions, less the duration of the test.
    assert 0.75 * middle - 20 < min(waits)
    assert max(waits) < 1.25 * middle
    assert max(waits) - min(waits) > 0.1 * middle


async def test_the_wait_is_capped_near_an_hour_after_any_number_of_resends(
    make_settings: MakeSettings, broker_url: str
) -> None:
    settings = make_settings(CELERY_BROKER_URL=broker_url, COMMENT_RESEND_AFTER=3600, COMMENT_BACKOFF_MULTIPLIER=10)
    overdue(settings, 10)
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET resends = 1000000")
    await sweep(settings)
    assert all(0 < row.due_in < 1.25 * 3600 for row in outbox(settings.postgres_dsn))
    assert len(outbox_ids(settings.broker_url)) == 10


async def test_a_sweep_sends_all_overdue_rows_the_longest_overdue_first(settings: Settings) -> None:
    amount = 2 * SWEEP_BATCH + 7
    overdue(settings, amount)
    execute(settings.postgres_dsn, "UPDATE analysis_outbox SET due_at = now() - make_interval(secs => id)")
    await sweep(settings)
    sent = outbox_ids(settings.broker_url)
    assert sorted(sent) == [row.id for row in outbox(settings.postgres_dsn)]
    assert len(sent) == amount
    # The order within a batch of the sweep does not matter.
    assert min(sent[:SWEEP_BATCH]) > max(sent[-7:])


async def test_a_sweep_skips_rows_that_another_process_is_sending(settings: Settings) -> None:
    overdue(settings, 5)
    async with opened(settings) as database, database.transaction() as conn:
        taken = {row["id"] for row in await conn.fetch(statements.SWEEP, 3, 600, 2)}
        await sweep(settings)
        sent = set(outbox_ids(settings.broker_url))
    assert (len(taken), len(sent)) == (3, 2)
    assert taken | sent == {row.id for row in outbox(settings.postgres_dsn)}
    assert taken & sent == set()


async def test_concurrent_sweeps_send_each_row_once(settings: Settings) -> None:
    amount = 3 * SWEEP_BATCH
    overdue(settings, amount)
    await asyncio.gather(*(sweep(settings) for _ in range(4)))
    sent = Counter(outbox_ids(settings.broker_url))
    assert len(sent) == amount
    assert set(sent.values()) == {1}
    assert {row.resends for row in outbox(settings.postgres_dsn)} == {1}


async def test_a_sweep_skips_a_row_that_a_worker_is_finishing(settings: Settings) -> None:
    overdue(settings, 2)
    first, second = outbox(settings.postgres_dsn)
    end = f"DELETE FROM analysis_outbox WHERE id = {first.id}"  # noqa: S608
    with holding(settings.postgres_dsn, end) as worker:
        await sweep(settings)
        worker.commit()
    assert outbox_ids(settings.broker_url) == [second.id]


async def test_no_row_is_claimed_while_the_broker_is_known_to_be_unavailable(
    settings: Settings, make_settings: MakeSettings, wire: Wire
) -> None:
    wire.cut()
    overdue(settings, 20)
    count = metric("comment_outbox_resent_total")
    async with scheduler(make_settings(CELERY_BROKER_URL=wire.url), unavailable=True) as (jobs, publisher):
        publisher.publish([1])
        await until(lambda: publisher.free_capacity == 0)
        await jobs.sweep()
    assert {row.resends for row in outbox(settings.postgres_dsn)} == {0}
    assert metric("comment_outbox_resent_total") == count


async def test_pending_rows_are_sent_at_once_after_a_broker_outage(
    settings: Settings, make_settings: MakeSettings, wire: Wire
) -> None:
    """A failed attempt must not delay all rows: each attempt doubles the wait, up to an hour."""
    wire.cut()
    overdue(settings, 200)
    errors = metric("comment_processing_errors_total", reason="broker")
    found: set[int] = set()
    slow = make_settings(CELERY_BROKER_URL=wire.url, COMMENT_RESEND_AFTER=600)
    async with scheduler(slow, unavailable=True) as (jobs, _):

        async def swept(done: Callable[[], bool]) -> bool:
            await jobs.sweep()
            found.update(outbox_ids(settings.broker_url))
            return done()

        await until(lambda: swept(lambda: metric("comment_processing_errors_total", reason="broker") > errors))
        wire.open = True
        # The few rows of a failed attempt may wait.
        await until(lambda: swept(lambda: len(found) > 190))


def sent_rows(settings: Settings, amount: int, *, due_in: float) -> None:
    """Inserts outbox rows of 25 comments whose message was sent."""
    rows = (
        f"SELECT array_agg(n), now() + make_interval(secs => {due_in}) "  # noqa: S608 - numbers
        f"FROM generate_series(1, 25 * {amount}) AS n GROUP BY (n - 1) / 25"
    )
    execute(settings.postgres_dsn, f"INSERT INTO analysis_outbox (comment_ids, due_at) {rows}")


def count(settings: Settings, condition: str) -> int:
    ((found,),) = execute(settings.postgres_dsn, f"SELECT count(*) FROM analysis_outbox WHERE {condition}")  # noqa: S608
    return int(found)


async def measured(jobs: Scheduler, condition: Callable[[float | None], bool]) -> None:
    """Measures the queue until the rate meets the condition."""

    async def rate_is_right() -> bool:
        await jobs.measure_queue()
        return condition(jobs._rate.per_second)

    await until(rate_is_right)


async def test_the_outstanding_rows_of_all_processes_bound_the_sending(
    settings: Settings, make_settings: MakeSettings
) -> None:
    """The rest waits in the outbox even if the broker has free capacity."""
    sent_rows(settings, ROWS_AT_FIRST - 5, due_in=600)
    overdue(settings, 20)
    async with scheduler(settings) as (jobs, publisher):
        await jobs.sweep()
        assert publisher.free_capacity == 0
    assert len(outbox_ids(settings.broker_url)) == 5
    async with open_runtime(make_settings(CELERY_BROKER_URL=settings.broker_url), application="test") as runtime:
        await until(lambda: runtime.publisher.state == "ok")
        await runtime.scheduler.measure_queue()
        assert (await runtime.pipeline.process(parsed(comment(1)))).stored == 1
    assert outbox(settings.postgres_dsn)[-1].resends == -1
    assert outbox_ids(settings.broker_url) == []


async def test_rows_that_wait_at_the_broker_without_workers_are_not_sent_again(
    settings: Settings, make_settings: MakeSettings
) -> None:
    prompt = make_settings(CELERY_BROKER_URL=settings.broker_url, COMMENT_RESEND_AFTER=4)
    fill(settings.broker_url, 100)
    sent_rows(settings, 300, due_in=4)
    async with scheduler(prompt) as (jobs, publisher):
        await measured(jobs, lambda rate: rate == 0)
        assert publisher.free_capacity == 0
        begun = time.monotonic()

        async def swept() -> bool:
            await jobs.measure_queue()
            await jobs.sweep()
            return time.monotonic() - begun > 8

        await until(swept)
    assert count(settings, "resends = 0 AND due_at > now()") == 300
    assert len(messages(settings.broker_url)) == 100


async def test_rows_lost_by_the_broker_are_sent_again_after_the_resend_time(
    settings: Settings, make_settings: MakeSettings
) -> None:
    """The broker's queue is empty, so no row waits there."""
    prompt = make_settings(CELERY_BROKER_URL=settings.broker_url, COMMENT_RESEND_AFTER=4)
    sent_rows(settings, 80, due_in=4)
    found: set[int] = set()
    async with scheduler(prompt) as (jobs, _):

        async def swept() -> bool:
            await jobs.sweep()
            found.update(outbox_ids(settings.broker_url))
            return len(found) == 80

        await until(swept)


async def test_every_process_measures_the_rate_of_all_workers(settings: Settings, make_settings: MakeSettings) -> None:
    """The rate comes from PostgreSQL's statistics, without Redis or a process that has sent or analysed rows."""
    sent_rows(settings, 10, due_in=600)
    async with scheduler(settings) as (first, publisher), scheduler(settings) as (other, _):
        await measured(first, lambda rate: rate == 0)
        await measured(other, lambda rate: rate == 0)
        assert publisher.free_capacity == LEAST_ROWS - 10
        stored_comments(settings.postgres_dsn, 5_000)
        await measured(first, lambda rate: (rate or 0) > 50)
        await measured(other, lambda rate: (rate or 0) > 50)
        assert publisher.free_capacity > LEAST_ROWS


async def test_a_running_process_sweeps_periodically(settings: Settings, make_settings: MakeSettings) -> None:
    overdue(settings, 3)
    prompt = make_settings(CELERY_BROKER_URL=settings.broker_url, COMMENT_SWEEP_INTERVAL=0.1)
    found: set[int] = set()

    def sent(amount: int) -> bool:
        found.update(outbox_ids(settings.broker_url))
        return len(found) == amount

    async with open_client(prompt):
        await until(lambda: sent(3))
        overdue(settings, 3)
        await until(lambda: sent(6))
        await until(lambda: metric("comment_analysis_backlog") == 6)
