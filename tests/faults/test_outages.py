"""Redis and RabbitMQ emptied, stopped and restarted under traffic: every request is answered 200, nothing is lost."""

import asyncio

import psutil
import redis
from tests.conftest import execute, until
from tests.faults.conftest import MakeSystem
from tests.support.messages import channel as broker_channel
from tests.support.rabbitmq import RabbitMQ
from tests.support.requests import comment
from tests.support.system import Sender, System, analysed, traffic

from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.messaging.celery_app import QUEUE_NAME

# The connection of the process that runs the task.
ANALYSING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'comment-monitor worker' "
    "AND datname = current_database()"
)
HITS = "comment_dedup_cache_hits_total"


async def test_emptying_redis_loses_nothing(make_system: MakeSystem, own_redis: EmbeddedRedis) -> None:
    system = make_system(REDIS_URL=own_redis.url)
    await system.start()
    async with traffic(system.url) as clients:
        for _ in range(3):
            await clients.goes_on()
            with redis.Redis.from_url(own_redis.url) as cache:
                assert cache.dbsize()
                cache.flushall()
    assert clients.statuses == {200}
    before = await system.metric("comment_duplicates_detected_total", tier="database")
    answer = (await system.post(*map(comment, clients.sent))).json()
    assert answer["duplicates"] == len(clients.sent)
    # PostgreSQL found the duplicates without cache entries.
    assert await system.metric("comment_duplicates_detected_total", tier="database") > before
    await system.all_is_well(clients.sent)


async def test_a_redis_outage_loses_nothing(make_system: MakeSystem, own_redis: EmbeddedRedis) -> None:
    system = make_system(REDIS_URL=own_redis.url)
    await system.start()
    async with traffic(system.url) as clients:
        await clients.goes_on()
        own_redis.stop()
        await system.until_health("degraded", cache="away", database="ok")
        await clients.goes_on()
        own_redis.start()
        await system.until_health("ok", cache="ok")
        await clients.goes_on()
    assert clients.statuses == {200}

    async def hits_grow() -> bool:
        """The circuit breaker tries Redis again after a pause."""
        before = await system.metric(HITS)
        for _ in range(2):
            await system.post(*map(comment, clients.sent[-5:]))
        return await system.metric(HITS) >= before + 5

    await until(hits_grow)
    await system.all_is_well(clients.sent)


async def test_a_rabbitmq_outage_loses_nothing(make_system: MakeSystem, own_rabbitmq: RabbitMQ) -> None:
    system = make_system(CELERY_BROKER_URL=own_rabbitmq.url)
    await system.start()
    async with traffic(system.url) as clients:
        await clients.goes_on()
        await system.until_health("ok", broker="ok")
        own_rabbitmq.stop()
        await system.until_health("degraded", broker="away", database="ok")
        await clients.goes_on()

        async def backlog_grows() -> bool:
            return await system.metric("comment_analysis_backlog") >= 100

        await until(backlog_grows)
        await asyncio.to_thread(own_rabbitmq.start)
        await clients.goes_on()
    assert clients.statuses == {200}
    await system.all_is_well(clients.sent)
    await system.until_health("ok", broker="ok")


async def test_a_task_that_ends_during_a_rabbitmq_outage_does_not_count_as_too_slow(
    make_system: MakeSystem, own_rabbitmq: RabbitMQ
) -> None:
    """The worker learns of the task's end only after the outage, when the task's hard time limit has passed."""
    system = make_system(CELERY_BROKER_URL=own_rabbitmq.url, SLOW_SECONDS=2, HARD_SECONDS=6)
    await system.start(system.orchestrator)
    await system.post(comment("during"))
    with broker_channel(own_rabbitmq.url) as channel:

        def waiting() -> int:
            found = channel.queue_declare(QUEUE_NAME, passive=True)
            assert found
            return int(found[1])

        await until(lambda: waiting() == 1)
        system.worker.start(module="tests.support.deadly")
        await until(lambda: waiting() == 0)
    await until(lambda: execute(system.dsn, ANALYSING) == [(1,)])
    (process,) = psutil.Process(system.worker.process.pid).children()
    own_rabbitmq.stop()
    await until(lambda: analysed(system.dsn) == {"during"})
    await asyncio.sleep(6)
    await asyncio.to_thread(own_rabbitmq.start)
    await system.post(comment("after"))
    await system.all_is_well(["during", "after"])
    assert psutil.Process(system.worker.process.pid).children() == [process]


async def test_a_rabbitmq_memory_alarm_loses_nothing(make_system: MakeSystem, own_rabbitmq: RabbitMQ) -> None:
    """During a memory alarm, RabbitMQ stops reading from publishers."""
    system = make_system(CELERY_BROKER_URL=own_rabbitmq.url)
    await system.start()
    async with traffic(system.url) as clients:
        await clients.goes_on()
        await asyncio.to_thread(own_rabbitmq.set_memory_limit, 0.0001)
        await clients.goes_on()
        await system.until_health("degraded", broker="away", database="ok")
        await clients.goes_on()
        await asyncio.to_thread(own_rabbitmq.set_memory_limit, 0.4)
        await system.until_health("ok", broker="ok")
        await clients.goes_on()
    assert clients.statuses == {200}
    await system.all_is_well(clients.sent)


async def test_messages_lost_by_the_broker_are_sent_again(system: System, broker_url: str) -> None:
    await system.start(system.orchestrator)
    await system.until_health("ok")
    sender = Sender(system.url)
    await sender.send(8)
    with broker_channel(broker_url) as channel:
        await until(lambda: channel.queue_purge(QUEUE_NAME))
    assert execute(system.dsn, "SELECT count(*) FROM comment_analyses") == [(0,)]
    system.worker.start()
    await system.all_is_well(sender.sent)
    assert await system.metric("comment_outbox_resent_total") > 0


async def test_deleting_the_queue_of_a_worker_loses_nothing(system: System, broker_url: str) -> None:
    await system.start()
    async with traffic(system.url) as clients:
        await clients.goes_on()
        await system.until_analysed()
        with broker_channel(broker_url) as channel:
            channel.queue_delete(QUEUE_NAME)
        await clients.goes_on()
    assert clients.statuses == {200}
    await system.all_is_well(clients.sent)
