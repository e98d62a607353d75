"""RabbitMQ out of reach from one piece to the next: whatever a worker was at, it still hears that it is to leave."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.conftest import Broker
from tests.support.cut_line import cut_line
from tests.support.system import Program

PATIENCE = 60
# In this order: as it greets the broker, opens its second connection, says that it is there; then a heartbeat each.
PIECES = (1, 9, 14, 18, 21, 24, 25)


@pytest.mark.parametrize(("pieces", "events"), [*((one, "false") for one in PIECES), (24, "true")])
async def test_a_worker_whose_broker_goes_away_ends_on_sigterm(
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
