"""Servers and databases for the tests: real ones, started for this run, gone after it."""

import asyncio
import itertools
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg2
import psycopg2.extensions
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from prometheus_client import REGISTRY

from comment_monitor.analysis.engine import warm_up
from comment_monitor.core import config
from comment_monitor.core.config import Settings
from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.runtime import Runtime, open_runtime
from comment_monitor.storage import migrations
from comment_monitor.web.app import create_app, create_asgi
from tests.support import http
from tests.support.messages import empty
from tests.support.rabbitmq import server_script, shared_url, stop_shared

TEMPLATE = "template_for_tests"
# Seconds between two polls of a condition.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.2
_names = itertools.count()

# What a script starts in its background is told to ignore Ctrl-C, and hands that on to all that it starts itself.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples at every run, and no limit of time for one of them: a busy machine is no finding.
hypothesis_settings.register_profile(
    "tests", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("tests")


def execute(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """One statement in autocommit; its rows, if it has any."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def with_database(dsn: str, name: str) -> str:
    """The DSN of another database on the same server."""
    return psycopg2.extensions.make_dsn(dsn, dbname=name)


@pytest.fixture(scope="session", autouse=True)
def models() -> None:
    """The analysers' models are loaded, as in a worker before its first task."""
    warm_up()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for the whole run, with a migrated template database."""
    # Not pytest's own folder: run as root, the server's user could not enter it.
    with tempfile.TemporaryDirectory(prefix="tests-") as name:
        Path(name).chmod(0o755)
        server = EmbeddedPostgres(Path(name) / "data")
        server.start()
        try:
            execute(server.dsn, f"CREATE DATABASE {TEMPLATE}")
            migrations.upgrade(with_database(server.dsn, TEMPLATE))
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis for the whole run."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def need_rabbitmq() -> None:
    """Where it is not installed the test is skipped by name, or fails in CI."""
    if not server_script():
        reason = "rabbitmq-server is not on PATH"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason}, and REQUIRE_SERVICES=1 wants it")
        pytest.skip(reason)


class Broker(NamedTuple):
    """A virtual host of RabbitMQ."""

    url: str


def _run_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all processes of this test run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def rabbitmq_of_all(tmp_path_factory: pytest.TempPathFactory) -> Broker:
    """This process's virtual host of the RabbitMQ of the whole run, where rabbitmq-server is installed."""
    need_rabbitmq()
    return Broker(shared_url(_run_folder(tmp_path_factory), os.environ.get("PYTEST_XDIST_WORKER", "gw0")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stops the shared RabbitMQ, once all processes have ended."""
    if "PYTEST_XDIST_WORKER" not in os.environ and (factory := getattr(session.config, "_tmp_path_factory", None)):
        stop_shared(_run_folder(factory))


@pytest.fixture
def rabbitmq(rabbitmq_of_all: Broker) -> Broker:
    """The same with an empty queue: messages for an earlier test's database would name rows of this test's too."""
    empty(rabbitmq_of_all.url)
    return rabbitmq_of_all


@pytest.fixture
def empty_dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database of the test's own without tables."""
    yield from _database(postgres, "template0")


@pytest.fixture
def dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _database(postgres, TEMPLATE)


def _database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_names)}"
    execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield with_database(postgres.dsn, name)
    finally:
        execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The Redis of this run, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def environment(dsn: str, redis_url: str) -> dict[str, str]:
    """The variables of a process on the test's own servers, without a broker."""
    # By itself it gives Redis half a second: where this machine is busy, one that is there would pass for away.
    patient = f"{redis_url}&socket_timeout=30&socket_connect_timeout=30"
    return {"POSTGRES_DSN": dsn, "REDIS_URL": patient, "COMMENT_RATE_LIMIT_PER_MINUTE": "0"}


MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(environment: dict[str, str]) -> MakeSettings:
    """Settings on the test's own servers, changed by keyword: `make_settings(COMMENT_BATCH_SIZE=5)`."""

    def make(**changes: object) -> Settings:
        return config.load({**environment, **{name: str(value) for name, value in changes.items()}})

    return make


@pytest.fixture
async def runtime(make_settings: MakeSettings) -> AsyncIterator[Runtime]:
    """A process's inside, running."""
    async with open_runtime(make_settings(), application="test") as one:
        yield one


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application, without a socket between."""
    app = create_app(settings)
    async with app.lifespan():
        transport = httpx.ASGITransport(create_asgi(app))  # type: ignore[arg-type]
        async with http.AsyncClient(transport=transport, base_url="http://test") as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


@asynccontextmanager
async def kept_open(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose application one task opens and closes, as its lifespan wants: a fixture's two ends are two."""
    opened: asyncio.Future[httpx.AsyncClient] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def keep() -> None:
        async with open_client(settings) as one:
            opened.set_result(one)
            await leave.wait()

    keeper = asyncio.create_task(keep())
    await asyncio.wait((keeper, opened), return_when=asyncio.FIRST_COMPLETED)
    try:
        yield opened.result()
    finally:
        leave.set()
        await keeper


@pytest.fixture
async def client(make_settings: MakeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on the test's own servers."""
    async with kept_open(make_settings()) as one:
        yield one


def metric(name: str, **labels: str) -> float:
    """A metric's value in this process; 0 where it has none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], Any], *, seconds: float = 60) -> None:
    """Waits for a condition (a function, or one that gives an awaitable) to come true.

    The limit is for what never comes: where every processor is taken, a process may need ten seconds for its start.
    """
    pause = SHORTEST_PAUSE
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(pause)
            # A poll takes processor time from what it waits for: the longer the wait, the fewer the polls.
            pause = min(1.3 * pause, LONGEST_PAUSE)


def project_root() -> Path:
    """The checkout."""
    return Path(__file__).parent.parent
