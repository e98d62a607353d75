"""Servers for the kills and outages."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import pytest
from tests.support.rabbitmq import RabbitMQ
from tests.support.system import System

from comment_monitor.broker import QUEUE_NAME

# A batch that got lost is sent again soon, so that a test need not wait for it.
PROMPT = {
    "COMMENT_RESEND_AFTER": "1",
    "COMMENT_SWEEP_INTERVAL": "0.2",
    "COMMENT_PROCESSING_TIMEOUT": "15",
    "COMMENT_RATE_LIMIT_PER_MINUTE": "0",
}


@pytest.fixture
def broker_url(rabbitmq: RabbitMQ) -> str:
    """RabbitMQ, without what an earlier test left in the queue."""
    address = urlsplit(rabbitmq.url)
    with suppress(socket.error, amqp.NotFound), amqp.Connection(f"{address.hostname}:{address.port}") as connection:
        connection.channel().queue_purge(QUEUE_NAME)
    return rabbitmq.url


@pytest.fixture
def prompt_environment(environment: dict[str, str], broker_url: str) -> dict[str, str]:
    """The variables of processes on the test's own servers."""
    return {**environment, **PROMPT, "CELERY_BROKER_URL": broker_url}


@pytest.fixture
def system(tmp_path: Path, prompt_environment: dict[str, str]) -> Iterator[System]:
    """Orchestrator and worker, not yet started."""
    one = System(tmp_path, prompt_environment)
    try:
        yield one
    finally:
        one.end()
