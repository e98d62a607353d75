"""The analysis queue on RabbitMQ: a plain Celery worker, and when a batch counts as sent."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import amqp
import pytest
from tests.conftest import Broker, MakeSettings, execute, metric, open_client, until
from tests.support.database import outbox, results, take_in
from tests.support.intake import PATH, outcome_counts, process, refused, several
from tests.support.messages import Wire, channel, messages, named, outbox_ids
from tests.support.rabbitmq import RabbitMQ
from tests.support.requests import body, comment, parsed
from tests.support.triggers import allow, refuse

from comment_monitor.core.config import Settings
from comment_monitor.messaging.celery_app import QUEUE_NAME, make_celery
from comment_monitor.messaging.publisher import QUEUE_LIMIT, Publisher
from comment_monitor.runtime import open_runtime


@pytest.fixture
def settings(make_settings: MakeSettings, rabbitmq: Broker) -> Settings:
    return make_settings(CELERY_BROKER_URL=rabbitmq.url)


@pytest.fixture
def wire(rabbitmq: Broker) -> Iterator[Wire]:
    wire = Wire(rabbitmq.url)
    yield wire
    wire.close()


@contextmanager
def publisher_of(settings: Settings, *, ids_per_message: int = 1) -> Iterator[Publisher]:
    """Yields a publisher; everything that it can send is sent at the end of the block."""
    publisher = Publisher(make_celery(settings), ids_per_message=ids_per_message)
    yield publisher
    publisher.close(timeout=20)


@contextmanager
def celery(settings: Settings, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {"POSTGRES_DSN": settings.postgres_dsn, "RABBITMQ_URL": settings.broker_url, "CELERY_BROKER_URL": ""}
    command = [
        str(Path(sys.executable).parent / "celery"),
        "-A",
        "comment_monitor.tasks",
        "worker",
        "--concurrency",
        "1",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd="/", stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def test_the_plain_celery_command_analyses_and_exits_on_sigterm(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "celery.log"
    with celery(settings, log) as process:
        async with open_runtime(settings, application="test") as runtime:
            await runtime.pipeline.process(parsed(*map(comment, range(30))))
            await until(lambda: not outbox(settings.postgres_dsn), seconds=60)
        assert {result.status for result in results(settings.postgres_dsn).values()} == {"done"}
        assert len(results(settings.postgres_dsn)) == 30
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()


async def test_the_queue_and_its_messages_are_durable(settings: Settings) -> None:
    await take_in(settings, comment(1))
    with publisher_of(settings) as publisher:
        publisher.publish([row.id for row in outbox(settings.postgres_dsn)])
    (message,) = messages(settings.broker_url)
    assert message.properties["delivery_mode"] == 2
    with pytest.raises(amqp.PreconditionFailed, match="durable"), channel(settings.broker_url) as broker_channel:
        broker_channel.queue_declare(QUEUE_NAME, durable=False, auto_delete=False)


async def test_sent_messages_survive_a_broker_restart(
    make_settings: MakeSettings, tmp_path: Path, rabbitmq: Broker
) -> None:
    server = RabbitMQ(tmp_path / "rabbitmq")
    server.start()
    try:
        with publisher_of(make_settings(CELERY_BROKER_URL=server.url)) as publisher:
            publisher.publish([1, 2, 3])
        server.restart()
        assert outbox_ids(server.url) == [1, 2, 3]
    finally:
        server.stop()


async def test_buffered_batches_share_messages_up_to_the_limit(settings: Settings) -> None:
    with publisher_of(settings, ids_per_message=8) as publisher:
        publisher.publish(range(100))
    sent = named(settings.broker_url)
    assert [id_ for ids in sent for id_ in ids] == list(range(100))
    assert max(map(len, sent)) == 8


async def test_free_capacity_is_counted_in_batches_not_in_messages(settings: Settings) -> None:
    with publisher_of(settings, ids_per_message=50) as publisher:
        await until(lambda: publisher.free_capacity == QUEUE_LIMIT)
        publisher.publish(range(100))
        # Counted are buffered, dispatched and sent batches, and from the second poll on those that the broker reports.
        # A batch may count twice while it is settled, and is always counted.
        polls = {publisher._polled}
        while len(polls) < 3:
            assert QUEUE_LIMIT - 200 <= publisher.free_capacity <= QUEUE_LIMIT - 100
            await asyncio.sleep(0.01)
            polls.add(publisher._polled)
        await until(lambda: publisher.free_capacity == QUEUE_LIMIT - 100)
        outbox_ids(settings.broker_url)
        await until(lambda: publisher.free_capacity == QUEUE_LIMIT)


async def test_a_batch_counts_as_sent_only_after_the_broker_confirms(
    settings: Settings, make_settings: MakeSettings, wire: Wire
) -> None:
    errors = metric("comment_processing_errors_total", reason="broker")
    with publisher_of(make_settings(CELERY_BROKER_URL=wire.url)) as publisher:
        publisher.publish([1])
        await until(lambda: outbox_ids(settings.broker_url) == [1])
        # The message arrives before its confirmation; a poll that finds no message follows both.
        await until(lambda: publisher.free_capacity == QUEUE_LIMIT)
        wire.answers = False
        publisher.publish([2])
        await until(lambda: outbox_ids(settings.broker_url) == [2])
        await until(lambda: metric("comment_processing_errors_total", reason="broker") > errors, seconds=60)
        assert publisher.free_capacity == 0


async def test_new_comments_beside_a_failed_edit_are_stored_and_sent_at_once(settings: Settings, dsn: str) -> None:
    """The new comments are committed before the edit is tried, and must not wait minutes for the sweep."""
    async with open_client(settings) as client:
        await until(lambda: client.app.state.lifecycle.runtime.publisher.free_capacity > 0)  # type: ignore[attr-defined]
        await process(client, comment("c0", "first"))
        await refuse(dsn, "UPDATE", "comments")
        request = [comment("c0", "edited"), *several(6)[1:]]
        refused(await client.post(PATH, json=body(*request)), 503, "database-unavailable")
        waiting = {row.id for row in outbox(dsn)}
        assert len(waiting) == 2
        sent: list[int] = []

        def all_sent() -> bool:
            sent.extend(outbox_ids(settings.broker_url))
            return {*sent} == waiting

        assert settings.resend_after > 20
        await until(all_sent, seconds=20)

        await allow(dsn)
        assert outcome_counts(await process(client, *request)) == (0, 1, 5, 0)
    assert execute(dsn, "SELECT text FROM comments WHERE comment_id = 'c0'") == [("edited",)]


async def test_a_broker_outage_counts_as_an_error_and_sending_resumes_afterwards(
    settings: Settings, make_settings: MakeSettings, wire: Wire
) -> None:
    errors = metric("comment_processing_errors_total", reason="broker")
    with publisher_of(make_settings(CELERY_BROKER_URL=wire.url)) as publisher:
        publisher.publish([1])
        await until(lambda: outbox_ids(settings.broker_url) == [1])
        await until(lambda: publisher.free_capacity == QUEUE_LIMIT)
        wire.cut()
        publisher.publish([2])
        await until(lambda: metric("comment_processing_errors_total", reason="broker") > errors)
        wire.open = True
        await until(lambda: publisher.free_capacity > 0)
        publisher.publish([3])
        await until(lambda: outbox_ids(settings.broker_url) == [3])
