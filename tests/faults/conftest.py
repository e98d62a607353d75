"""Servers and systems for tests of kills and outages."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.conftest import Broker
from tests.support.rabbitmq import RabbitMQ
from tests.support.system import System

from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.storage import migrations

# A lost batch is sent again soon, so that tests need not wait for it.
PROMPT = {
    "COMMENT_RESEND_AFTER": "1",
    "COMMENT_SWEEP_INTERVAL": "0.2",
    "COMMENT_PROCESSING_TIMEOUT": "15",
    "COMMENT_RATE_LIMIT_PER_MINUTE": "0",
}


@pytest.fixture
def broker_url(rabbitmq: Broker) -> str:
    """A RabbitMQ with an empty queue."""
    return rabbitmq.url


@pytest.fixture
def prompt_environment(environment: dict[str, str], broker_url: str) -> dict[str, str]:
    """The variables of a process on the test's servers."""
    return {**environment, **PROMPT, "CELERY_BROKER_URL": broker_url}


MakeSystem = Callable[..., System]


@pytest.fixture
def make_system(tmp_path: Path, prompt_environment: dict[str, str]) -> Iterator[MakeSystem]:
    """Makes systems that are not started, with variables given by keyword; all of them end with the test."""
    with ExitStack() as stack:

        def make(**changes: object) -> System:
            variables = {name: str(value) for name, value in changes.items()}
            system = System(tmp_path, {**prompt_environment, **variables})
            stack.callback(system.end)
            return system

        yield make


@pytest.fixture
def system(make_system: MakeSystem) -> System:
    """An orchestrator and a worker that are not started."""
    return make_system()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that the test may stop."""
    server = EmbeddedRedis(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that the test may stop, with a migrated database."""
    # Not pytest's folder: PostgreSQL runs as another user if the tests run as root, and could not enter it.
    with tempfile.TemporaryDirectory(prefix="tests-") as name:
        Path(name).chmod(0o755)
        server = EmbeddedPostgres(Path(name) / "data")
        server.start()
        try:
            migrations.upgrade(server.dsn)
            yield server
        finally:
            server.stop()


@pytest.fixture
def own_rabbitmq(rabbitmq: Broker, tmp_path: Path) -> Iterator[RabbitMQ]:
    """A RabbitMQ that the test may stop; depends on the shared RabbitMQ to be skipped where none is installed."""
    server = RabbitMQ(tmp_path / "rabbitmq")
    server.start()
    try:
        yield server
    finally:
        server.stop()
