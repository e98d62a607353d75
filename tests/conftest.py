"""Real servers and databases for the tests, started for the test run."""

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
from tests.support.databases import Databases
from tests.support.messages import empty
from tests.support.rabbitmq import server_script, shared_url, stop_shared

TEMPLATE = "template_for_tests"
# Seconds between two polls of a condition.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.2
_names = itertools.count()

# Background processes of a script ignore Ctrl-C and pass this on to all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run and no time limit for an example, because a busy machine is no failure.
hypothesis_settings.register_profile(
    "tests", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("tests")


def execute(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """Executes a statement in autocommit; returns its rows, if any."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def with_database(dsn: str, name: str) -> str:
    """Returns the DSN of another database on the same server."""
    return psycopg2.extensions.make_dsn(dsn, dbname=name)


@pytest.fixture(scope="session", autouse=True)
def models() -> None:
    """Loads the models of the analysers, as a worker does before its first task."""
    warm_up()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for the whole test run, with a migrated template database."""
    # Not pytest's folder: PostgreSQL runs as another user if the tests run as root, and could not enter it.
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
    """A Redis for the whole test run."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def need_rabbitmq() -> None:
    """Skips the test if RabbitMQ is not installed, or fails it in CI."""
    if not server_script():
        reason = "rabbitmq-server is not on PATH"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason}, and REQUIRE_SERVICES=1 wants it")
        pytest.skip(reason)


class Broker(NamedTuple):
    """A virtual host of RabbitMQ."""

    url: str


def _run_folder(factory: pytest.TempPathFactory) -> Path:
    """Returns the temporary folder that all processes of this test run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def rabbitmq_of_all(tmp_path_factory: pytest.TempPathFactory) -> Broker:
    """This process's virtual host of the shared RabbitMQ."""
    need_rabbitmq()
    return Broker(shared_url(_run_folder(tmp_path_factory), os.environ.get("PYTEST_XDIST_WORKER", "gw0")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stops the shared RabbitMQ after all processes have ended."""
    if "PYTEST_XDIST_WORKER" not in os.environ and (factory := getattr(session.config, "_tmp_path_factory", None)):
        stop_shared(_run_folder(factory))


@pytest.fixture
def rabbitmq(rabbitmq_of_all: Broker) -> Broker:
    """The virtual host with an empty queue: old messages would name outbox rows of this test's database."""
    empty(rabbitmq_of_all.url)
    return rabbitmq_of_all


@pytest.fixture
def empty_dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An empty database for the test."""
    name = f"empty_{os.getpid()}_{next(_names)}"
    execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield with_database(postgres.dsn, name)
    finally:
        execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Databases:
    """Migrated databases of that server."""
    return Databases(postgres, TEMPLATE)


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    """A migrated database for the test."""
    taken = databases.take()
    try:
        yield taken
    finally:
        databases.give_back(taken)


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The URL of the shared Redis, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def environment(dsn: str, redis_url: str) -> dict[str, str]:
    """The variables of a process on the test's servers, without a broker."""
    # The default timeout of half a second would make Redis seem unavailable on a busy machine.
    patient = f"{redis_url}&socket_timeout=30&socket_connect_timeout=30"
    return {"POSTGRES_DSN": dsn, "REDIS_URL": patient, "COMMENT_RATE_LIMIT_PER_MINUTE": "0"}


MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(environment: dict[str, str]) -> MakeSettings:
    """Settings for the test's servers, changed by keyword: `make_settings(COMMENT_BATCH_SIZE=5)`."""

    def make(**changes: object) -> Settings:
        return config.load({**environment, **{name: str(value) for name, value in changes.items()}})

    return make


@pytest.fixture
async def runtime(make_settings: MakeSettings) -> AsyncIterator[Runtime]:
    """A running Runtime, without the HTTP server."""
    async with open_runtime(make_settings(), application="test") as one:
        yield one


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of the whole application, without a socket."""
    app = create_app(settings)
    async with app.lifespan():
        transport = httpx.ASGITransport(create_asgi(app))  # type: ignore[arg-type]
        async with http.AsyncClient(transport=transport, base_url="http://test") as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


@asynccontextmanager
async def kept_open(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client whose application one task opens and closes: a fixture's setup and teardown may be two tasks."""
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
    """A client of the application on the test's servers."""
    async with kept_open(make_settings()) as one:
        yield one


def metric(name: str, **labels: str) -> float:
    """Returns the value of a metric in this process; 0 if it has none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], Any], *, seconds: float = 60) -> None:
    """Waits until a condition (a function, or one that returns an awaitable) is true.

    The limit is for conditions that never become true: on a busy machine, a process may need ten seconds to start.
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
            # A poll takes CPU time from the awaited process: the longer the wait, the fewer the polls.
            pause = min(1.3 * pause, LONGEST_PAUSE)


def project_root() -> Path:
    """Returns the root folder of the repository."""
    return Path(__file__).parent.parent
