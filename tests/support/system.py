"""The whole system as processes: an orchestrator, a worker, and a client that repeats what was not answered."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from comment_monitor.db import open_database
from comment_monitor.invariants import check
from tests.conftest import execute, project_root, until
from tests.support.rabbitmq import free_port
from tests.support.requests import adds_up, body, comment

REPEATED = (429, 503)


class Program:
    """One `comment-monitor` process in a session of its own, with what it logs in a file."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *arguments: str):
        self.arguments = arguments
        self.log = folder / f"{arguments[0]}-{free_port()}.log"
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(project_root())}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process
        return self._process

    def start(self, kill: tuple[str, ...] = ()) -> None:
        """Starts it; `kill` is (point, passing, who, marker)."""
        module = ["tests.support.killpoints", *kill] if kill else ["comment_monitor"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module, *self.arguments],
                env=self._environment,
                cwd=project_root(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> int:
        """As Kubernetes does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """It and its children, at once."""
        if self._process and self._process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class System:
    """An orchestrator and a worker on given servers."""

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self.port, self.metrics_port = free_port(), free_port()
        self.environment = environment
        self.dsn = environment["POSTGRES_DSN"]
        ports = ("--port", str(self.port), "--metrics-port", str(self.metrics_port))
        self.orchestrator = Program(folder, environment, "serve", *ports)
        self.worker = Program(folder, environment, "worker", "--concurrency", "1", "--metrics-port", "0")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    async def until_healthy(self) -> None:
        """The orchestrator answers."""

        async def healthy() -> bool:
            try:
                async with httpx.AsyncClient() as client:
                    return (await client.get(f"{self.url}/health")).status_code == 200
            except httpx.HTTPError:
                return False

        await until(healthy, seconds=60)

    async def until_analysed(self) -> None:
        """No comment waits for its analysis."""
        await until(lambda: execute(self.dsn, "SELECT count(*) FROM analysis_outbox") == [(0,)], seconds=90)

    async def broken_promises(self) -> list[str]:
        """The invariants that do not hold."""
        database = await open_database(self.dsn, size=1, timeout=30, application="test")
        try:
            async with database.snapshot() as conn:
                return [one.promise for one in await check(conn, oldest=300) if one.violations]
        finally:
            await database.close()

    def end(self) -> None:
        """Whatever the test did, nothing stays."""
        self.orchestrator.kill()
        self.worker.kill()


class Sender:
    """Sends requests one after the other and repeats each until it is answered 200, as a good client does."""

    def __init__(self, url: str, *, name: str = "c", size: int = 25):
        self._url = url
        self._name = name
        self._size = size
        self.sent: list[str] = []
        self.confirmed: set[str] = set()
        self.statuses: set[int] = set()
        self.broken = 0

    async def send(self, requests: int, *, start: int = 0) -> None:
        """The requests number `start` to `start + requests`."""
        async with httpx.AsyncClient(timeout=60) as client:
            for number in range(start, start + requests):
                ids = [f"{self._name}-{number}-{index}" for index in range(self._size)]
                self.sent += ids
                answer = await self._until_answered(client, body(*map(comment, ids), post_id=f"post-{number % 5}"))
                assert adds_up(answer)
                assert not answer["rejected"]
                assert answer["received"] == self._size
                self.confirmed.update(ids)

    async def _until_answered(self, client: httpx.AsyncClient, request: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(90):
            while True:
                try:
                    response = await client.post(f"{self._url}/comments/process", json=request)
                except httpx.TransportError:
                    self.broken += 1
                    await asyncio.sleep(0.05)
                    continue
                self.statuses.add(response.status_code)
                if response.status_code not in REPEATED:
                    assert response.status_code == 200, response.text
                    answer: dict[str, Any] = response.json()
                    return answer
                assert int(response.headers["Retry-After"]) > 0
                await asyncio.sleep(0.1)


def stored(dsn: str) -> list[str]:
    """The ids of all rows, repeats included."""
    return [row[0] for row in execute(dsn, "SELECT comment_id FROM comments ORDER BY id")]


def analysed(dsn: str) -> set[str]:
    """The ids of the comments whose latest text has a result."""
    rows = execute(
        dsn,
        "SELECT c.comment_id FROM comments c JOIN comment_analyses a ON a.comment_id = c.id "
        "AND a.revision = c.revision AND a.status = 'done'",
    )
    return {row[0] for row in rows}
