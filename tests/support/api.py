"""A process that serves, alone: what it answers, tells, logs and takes of memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.exported import ours, until_told, value
from tests.support.rabbitmq import free_port
from tests.support.raw import HEALTH, Raw
from tests.support.system import Program

MIB = 1024 * 1024


class Api:
    """`comment-monitor serve` on ports of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.port, self.metrics_port = free_port(), free_port()
        arguments = ("--port", str(self.port), "--metrics-port", str(self.metrics_port))
        self.program = Program(folder, environment, "serve", *arguments)
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> float:
        """MiB."""
        return float(psutil.Process(self.program.process.pid).memory_info().rss / MIB)

    @property
    def connections(self) -> int:
        """Of clients to its HTTP port."""
        found = psutil.Process(self.program.process.pid).net_connections("tcp")
        return sum(one.laddr.port == self.port and one.status == psutil.CONN_ESTABLISHED for one in found)

    def told(self, metric: str, **labels: str) -> float:
        """A metric's value; 0 where there is none yet."""
        return value(ours(f"http://127.0.0.1:{self.metrics_port}"), metric, **labels) or 0.0

    def lines(self, **what: object) -> list[dict[str, object]]:
        """Lines of the log with these members."""
        entries = [json.loads(line) for line in self.program.output.splitlines()]
        return [entry for entry in entries if what.items() <= entry.items()]

    async def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """What is answered to these bytes, on a connection of their own: status, headers, body."""
        async with await Raw.open(self.port) as one:
            await one.send(data)
            return await one.answer()

    async def health(self) -> int:
        """The status of `/health`."""
        return (await self.send(HEALTH))[0]


@contextmanager
def serving(folder: Path, environment: dict[str, str], **settings: object) -> Iterator[Api]:
    """One that answers; at the end it has logged no traceback, and ends as it is asked to."""
    api = Api(folder, environment | {name: str(value) for name, value in settings.items()})
    api.program.start()
    try:
        until_told(f"{api.url}/health")
        yield api
        assert "Traceback" not in api.program.output
        assert api.program.stop() == 0
    finally:
        api.program.kill()
