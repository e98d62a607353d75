"""A single `serve` process: its responses, metrics, log and memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.exported import ours, until_reported, value
from tests.support.rabbitmq import free_port
from tests.support.raw import HEALTH, Raw
from tests.support.system import Program

MIB = 1024 * 1024


class Api:
    """`comment-monitor serve` on its own ports."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.port, self.metrics_port = free_port(), free_port()
        arguments = ("--port", str(self.port), "--metrics-port", str(self.metrics_port))
        self.program = Program(folder, environment, "serve", *arguments)
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        return float(psutil.Process(self.program.process.pid).memory_info().rss / MIB)

    @property
    def connections(self) -> int:
        """The number of client connections to the HTTP port."""
        found = psutil.Process(self.program.process.pid).net_connections("tcp")
        return sum(
            connection.laddr.port == self.port and connection.status == psutil.CONN_ESTABLISHED for connection in found
        )

    def reported(self, metric: str, **labels: str) -> float:
        """Returns the value of a metric; 0 if it is not exported yet."""
        return value(ours(f"http://127.0.0.1:{self.metrics_port}"), metric, **labels) or 0.0

    def lines(self, **what: object) -> list[dict[str, object]]:
        """Returns the log lines with these members."""
        entries = [json.loads(line) for line in self.program.output.splitlines()]
        return [entry for entry in entries if what.items() <= entry.items()]

    async def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends bytes on a new connection; returns status, headers and body of the response."""
        async with await Raw.open(self.port) as connection:
            await connection.send(data)
            return await connection.answer()

    async def health(self) -> int:
        """Returns the status of `/health`."""
        return (await self.send(HEALTH))[0]


@contextmanager
def serving(folder: Path, environment: dict[str, str], **settings: object) -> Iterator[Api]:
    """Runs a process; asserts that it logs no traceback and exits with code 0 on SIGTERM."""
    api = Api(folder, environment | {name: str(value) for name, value in settings.items()})
    api.program.start()
    try:
        until_reported(f"{api.url}/health")
        yield api
        assert "Traceback" not in api.program.output
        assert api.program.stop() == 0
    finally:
        api.program.kill()
