"""RabbitMQ becomes unreachable at any stage: the worker still reacts to SIGTERM."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.conftest import Broker
from tests.support.cut_line import cut_line
from tests.support.system import Program

PATIENCE = 60
# Stages: the handshake, the second connection, the announcement of the worker, then a heartbeat each.
PIECES = (1, 9, 14, 18, 21, 24, 25)


@pytest.mark.parametrize(("pieces", "events"), [*((pieces, "false") for pieces in PIECES), (24, "true")])
async def test_a_worker_without_its_broker_exits_on_sigterm(
    dsn: str, rabbitmq: Broker, tmp_path: Path, pieces: int, events: str
) -> None:
    server = urlsplit(rabbitmq.url)
    assert server.hostname
    assert server.port
    with cut_line((server.hostname, server.port), pieces) as line:
        url = rabbitmq.url.replace(str(server.port), str(line.port))
        environment = {"POSTGRES_DSN": dsn, "CELERY_BROKER_URL": url, "CELERY_TASK_EVENTS": events}
        worker = Program(tmp_path, environment, "worker", "--metrics-port", "0", "--concurrency", "1")
        worker.start()
        try:
            assert line.is_cut(PATIENCE), worker.output
            worker.ask_to_leave()
            assert await worker.until_ended(PATIENCE) == 0
        finally:
            worker.kill()
