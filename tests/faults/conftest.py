"""Servers for the kills and outages."""

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

# A batch that got lost is sent again soon, so that a test need not wait for it.
PROMPT = {
    "COMMENT_RESEND_AFTER": "1",
    "COMMENT_SWEEP_INTERVAL": "0.2",
    "COMMENT_PROCESSING_TIMEOUT": "15",
    "COMMENT_RATE_LIMIT_PER_MINUTE": "0",
}


@pytest.fixture
def broker_url(rabbitmq: Broker) -> str:
    """RabbitMQ with an empty queue."""
    return rabbitmq.url


@pytest.fixture
def prompt_environment(environment: dict[str, str], broker_url: str) -> dict[str, str]:
    """The variables of processes on the test's own servers."""
    return {**environment, **PROMPT, "CELERY_BROKER_URL": broker_url}


MakeSystem = Callable[..., System]


@pytest.fixture
def make_system(tmp_path: Path, prompt_environment: dict[str, str]) -> Iterator[MakeSystem]:
    """Makes systems, not yet started, with variables changed by keyword; all of them end with the test."""
    with ExitStack() as stack:

        def make(**changes: object) -> System:
            variables = {name: str(value) for name, value in changes.items()}
            one = System(tmp_path, {**prompt_environment, **variables})
            stack.callback(one.end)
            return one

        yield make


@pytest.fixture
def system(make_system: MakeSystem) -> System:
    """Orchestrator and worker, not yet started."""
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
    """A PostgreSQL that the test may stop, its database migrated."""
    # Not pytest's own folder: run as root, the server's user could not enter it.
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
    """A RabbitMQ that the test may stop; the shared one is asked for because it says where there is none."""
    server = RabbitMQ(tmp_path / "rabbitmq")
    server.start()
    try:
        yield server
    finally:
        server.stop()
