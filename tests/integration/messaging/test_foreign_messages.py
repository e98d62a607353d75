"""Messages of other programs in the analysis queue: a worker rejects and counts each, and continues."""

import json
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kombu
import pytest
import redis
from tests.conftest import until
from tests.support.database import outbox, results
from tests.support.exported import ours, until_reported, value
from tests.support.rabbitmq import RabbitMQ, free_port
from tests.support.requests import comment, parsed
from tests.support.system import Program

from comment_monitor.core import config
from comment_monitor.core.config import Settings
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.messaging.celery_app import ANALYSE, QUEUE_NAME
from comment_monitor.runtime import open_runtime

EMBEDDED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def task(*ids: object, **headers: object) -> tuple[bytes, dict[str, object]]:
    """Returns a message like those of this program, with other arguments or headers."""
    return json.dumps([ids, {}, EMBEDDED]).encode(), {"task": ANALYSE, "id": str(uuid.uuid4()), **headers}


def raw(body: bytes, **headers: object) -> tuple[bytes, dict[str, object]]:
    return body, {"task": ANALYSE, "id": str(uuid.uuid4()), **headers}


JSON: Final = "application/json"
FOREIGN: Final[list[tuple[tuple[bytes, dict[str, Any]], str, str]]] = [
    (raw(b'{"args":[1]}'), JSON, "utf-8"),
    (raw(b'{"args'), JSON, "utf-8"),
    (raw(b"5"), JSON, "utf-8"),
    (raw(b"null"), JSON, "utf-8"),
    (raw(b"[[1]]"), JSON, "utf-8"),
    (raw(b"[[1],{},null]"), JSON, "utf-8"),
    (raw(b'[[1],{"x":1},{}]'), JSON, "utf-8"),
    (raw(json.dumps([[1], {}, {**EMBEDDED, "callbacks": [{"task": "x"}]}]).encode()), JSON, "utf-8"),
    (raw(b"[" * 100_000), JSON, "utf-8"),
    (raw(b"\xff\xfe\x00"), JSON, "utf-8"),
    (raw(pickle.dumps([[1], {}, {}])), "application/x-python-serialize", "binary"),
    (raw(b"[[1],{},{}]"), "application/x-unknown", "utf-8"),
    (raw(b""), JSON, "utf-8"),
    (task(), JSON, "utf-8"),
    (task("x"), JSON, "utf-8"),
    (task(None), JSON, "utf-8"),
    (task(1.5), JSON, "utf-8"),
    (task(True), JSON, "utf-8"),
    (task(2**63), JSON, "utf-8"),
    (task(-1), JSON, "utf-8"),
    (task([1]), JSON, "utf-8"),
    (task(*range(10_001)), JSON, "utf-8"),
    (task(1, task="other.task"), JSON, "utf-8"),
    (task(1, task=["list"]), JSON, "utf-8"),
    (task(1, task=None), JSON, "utf-8"),
    (task(1, id=None), JSON, "utf-8"),
    (task(1, id=7), JSON, "utf-8"),
    (task(1, id="x" * 5_000), JSON, "utf-8"),
    (task(1, eta="2099-01-01T00:00:00Z"), JSON, "utf-8"),
    (task(1, eta="never"), JSON, "utf-8"),
    (task(1, expires="soon"), JSON, "utf-8"),
    (task(1, timelimit=["a", "b"]), JSON, "utf-8"),
    (task(1, retries="many"), JSON, "utf-8"),
    ((b"[[1],{},{}]", {}), JSON, "utf-8"),
    ((b'{"task": "other.task", "id": 1}', {}), JSON, "utf-8"),
    ((b'{"task": {}, "args": 5}', {}), JSON, "utf-8"),
]


def send(url: str) -> None:
    """Sends every foreign message through a client that is not Celery."""
    with kombu.Connection(url) as connection:
        producer = kombu.Producer(connection.default_channel)
        for (body, headers), kind, encoding in FOREIGN:
            producer.publish(
                body, routing_key=QUEUE_NAME, headers=headers, content_type=kind, content_encoding=encoding
            )


@pytest.fixture(params=["rabbitmq", "redis"])
def broker(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> Iterator[str]:
    if request.param == "redis":
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushall()
        yield redis_server.broker_url
    else:
        server: RabbitMQ = request.getfixturevalue("rabbitmq")
        yield server.url


async def test_a_worker_rejects_each_foreign_message_and_continues(
    broker: str, environment: dict[str, str], tmp_path: Path
) -> None:
    variables = {**environment, "CELERY_BROKER_URL": broker}
    settings = config.load(variables)
    port = free_port()
    worker = Program(tmp_path, variables, "worker", "--concurrency", "1", "--metrics-port", str(port))
    metrics = f"http://127.0.0.1:{port}/metrics"
    try:
        worker.start()
        until_reported(metrics)
        await until(lambda: " ready." in worker.output)
        send(broker)
        await until(lambda: _rejected(metrics) == len(FOREIGN))
        await analysed(settings, 2)
        assert len(results(settings.postgres_dsn)) == 2
        assert worker.process.poll() is None
        lines = [json.loads(line) for line in worker.output.splitlines() if line.startswith("{")]
        assert [entry["event"] for entry in lines].count("message_rejected") == len(FOREIGN)
        assert "Traceback" not in worker.output
        assert "Unrecoverable" not in worker.output
        assert worker.stop() == 0
    finally:
        worker.kill()


async def test_a_worker_survives_entries_in_the_redis_queue_that_are_no_messages(
    redis_server: EmbeddedRedis, environment: dict[str, str], tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    variables = {**environment, "CELERY_BROKER_URL": redis_server.broker_url}
    settings = config.load(variables)
    port = free_port()
    worker = Program(tmp_path, variables, "worker", "--concurrency", "1", "--metrics-port", str(port))
    try:
        worker.start()
        until_reported(f"http://127.0.0.1:{port}/metrics")
        await until(lambda: " ready." in worker.output)
        socket, _, database = redis_server.broker_url.removeprefix("redis+socket://").partition("?virtual_host=")
        with redis.Redis(unix_socket_path=socket, db=int(database)) as client:
            for entry in (b"garbage", b"5", b"[]", b"{}", b'{"body": 1}', b"\xff"):
                client.lpush(QUEUE_NAME, entry)
        await analysed(settings, 1)
        assert worker.process.poll() is None
        assert worker.stop() == 0
    finally:
        worker.kill()


async def analysed(settings: Settings, amount: int) -> None:
    """Stores this many comments and waits until they are analysed."""
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*map(comment, range(amount))))
        await until(lambda: not outbox(settings.postgres_dsn), seconds=90)


def _rejected(url: str) -> float:
    return value(ours(url), "comment_processing_errors_total", reason="foreign-message") or 0
