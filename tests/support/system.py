"""The whole system as processes: an orchestrator, a worker, and a client that repeats unanswered requests."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from comment_monitor.storage.invariants import check
from comment_monitor.storage.postgres import open_database
from tests.conftest import execute, project_root, until
from tests.support import forked, http
from tests.support.rabbitmq import free_port
from tests.support.requests import adds_up, body, comment

REPEATED = (429, 503)
PACE = 0.03


class Program:
    """A `comment-monitor` process in its own session, with its output in a file."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *arguments: str):
        self.arguments = arguments
        self.log = folder / f"{arguments[0]}-{free_port()}.log"
        path = os.pathsep.join(filter(None, (str(project_root()), os.environ.get("PYTHONPATH"))))
        # Temporary files of a killed process are removed with the test.
        (folder / "tmp").mkdir(exist_ok=True)
        self._environment = {**os.environ, **environment, "PYTHONPATH": path, "TMPDIR": str(folder / "tmp")}
        self._process: forked.Popen | None = None

    @property
    def process(self) -> forked.Popen:
        assert self._process
        return self._process

    def start(self, kill: tuple[str, ...] = (), module: str = "comment_monitor") -> None:
        """Starts the process, or another module with the same arguments; `kill` is (point, call, target, marker)."""
        words = ["tests.support.killpoints", *kill] if kill else [module]
        with self.log.open("ab") as log:
            self._process = forked.Popen(
                [sys.executable, "-m", *words, *self.arguments],
                env=self._environment,
                cwd=project_root(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ask_to_leave(self) -> None:
        """Sends SIGTERM, as Kubernetes does first."""
        self.process.send_signal(signal.SIGTERM)

    async def until_ended(self, seconds: float = 60) -> int:
        """Waits for the end without blocking the event loop; returns the exit code."""
        await until(lambda: self.process.poll() is not None, seconds=seconds)
        return self.process.wait()

    def stop(self) -> int:
        """Sends SIGTERM and waits for the end; returns the exit code."""
        self.ask_to_leave()
        return self.process.wait(60)

    def kill(self) -> None:
        """Kills the process and its children."""
        if self._process and self._process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def end(self) -> None:
        """Ends the process after a test; a measurement of coverage needs an orderly end."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self.kill()

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def complaints(self) -> list[str]:
        """Unexpected log lines: tracebacks and errors, except Celery's about an unavailable broker."""
        return [line for line in self.output.splitlines() if _is_complaint(line)]


def _is_complaint(line: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return "Traceback (" in line
    # Celery without its broker: reconnection attempts, and an acknowledgement without a connection.
    consumer, error = entry["logger"] == "celery.worker.consumer.consumer", entry.get("error")
    return entry["level"] in {"error", "critical"} and not (consumer or error == "RecoverableConnectionError")


class System:
    """An orchestrator and a worker on given servers; the worker exports metrics if `worker_metrics` is set."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, worker_metrics: bool = False):
        self.port, self.metrics_port = free_port(), free_port()
        self.worker_metrics_port = free_port() if worker_metrics else 0
        self.environment = environment
        self.dsn = environment["POSTGRES_DSN"]
        ports = ("--port", str(self.port), "--metrics-port", str(self.metrics_port))
        self.orchestrator = Program(folder, environment, "serve", *ports)
        worker_port = str(self.worker_metrics_port)
        self.worker = Program(folder, environment, "worker", "--concurrency", "1", "--metrics-port", worker_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Returns status and body of `/health`."""
        async with http.AsyncClient(timeout=60) as client:
            response = await client.get(f"{self.url}/health")
            return response.status_code, response.json()

    async def until_health(self, status: str, **checks: str) -> None:
        """Waits until `/health` reports this status and these checks; asserts that every response is 200."""

        async def matches() -> bool:
            code, found = await self.health()
            assert code == 200, found
            return bool(found["status"] == status and checks.items() <= found["checks"].items())

        await until(matches, seconds=60)

    async def until_healthy(self) -> None:
        """Waits until the orchestrator responds."""

        async def healthy() -> bool:
            ended = self.orchestrator.process.poll()
            assert ended is None, f"The orchestrator ended with {ended}: {self.orchestrator.output[-2000:]}"
            try:
                return (await self.health())[0] == 200
            except httpx.HTTPError:
                return False

        await until(healthy, seconds=60)

    async def start(self, *programs: Program) -> None:
        """Starts programs (by default orchestrator and worker) and waits until the orchestrator responds."""
        for program in programs or (self.worker, self.orchestrator):
            program.start()
        await self.until_healthy()

    async def post(self, *comments: dict[str, Any], **more: Any) -> httpx.Response:
        """Sends a request; returns the response, whatever its status."""
        async with http.AsyncClient(timeout=60) as client:
            return await client.post(f"{self.url}/comments/process", json=body(*comments, **more))

    async def get(self, path: str) -> httpx.Response:
        """Returns a response of the reading API."""
        async with http.AsyncClient(timeout=60) as client:
            return await client.get(self.url + path)

    async def metric(self, name: str, **labels: str) -> float:
        """Returns a metric of the orchestrator from a scrape."""
        async with http.AsyncClient(timeout=60) as client:
            text = (await client.get(self.metrics_url)).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until_analysed(self) -> None:
        """Waits until no comment is pending."""
        await until(lambda: execute(self.dsn, "SELECT count(*) FROM analysis_outbox") == [(0,)], seconds=90)

    async def violated_invariants(self) -> list[str]:
        """Returns the violated invariants."""
        database = await open_database(self.dsn, size=1, timeout=30, application="test")
        try:
            async with database.connection() as conn:
                return [result.description for result in await check(conn, oldest=300) if result.violations]
        finally:
            await database.close()

    async def until_working(self) -> None:
        """Waits until the whole system works: the comment `first` is stored and analysed."""
        assert (await self.post(comment("first"))).status_code == 200
        await self.until_analysed()

    async def all_is_well(self, sent: Collection[str]) -> None:
        """Asserts that all comments are stored once and analysed, all invariants hold, and no complaint was logged."""
        await self.until_analysed()
        assert sorted(stored(self.dsn)) == sorted(sent)
        assert analysed(self.dsn) == set(sent)
        assert await self.violated_invariants() == []
        self.has_no_complaints()

    def has_no_complaints(self) -> None:
        """Asserts that neither process logged an unexpected line."""
        complaints = self.orchestrator.complaints + self.worker.complaints
        assert not complaints, "\n".join(complaints)

    def end(self) -> None:
        """Ends both processes."""
        self.orchestrator.end()
        self.worker.end()


class Sender:
    """Sends requests one after the other and repeats each until it is answered 200, as a good client does.

    With `edits`, every other request also holds a new text of the same comment.
    """

    def __init__(self, url: str, *, name: str = "c", size: int = 25, edits: bool = False):
        self._url = url
        self._name = name
        self._size = size
        self._edits = edits
        self.edited: dict[str, str] = {}
        self.sent: list[str] = []
        self.confirmed: set[str] = set()
        self.statuses: set[int] = set()
        self.broken = 0

    async def send(self, requests: int, *, start: int = 0) -> None:
        """Sends the requests number `start` to `start + requests`."""
        async with http.AsyncClient(timeout=60) as client:
            for number in range(start, start + requests):
                await self._send(client, number)

    async def send_until(self, stop: asyncio.Event, *, pace: float = PACE) -> None:
        """Sends requests at a moderate pace (0: without a pause) until `stop` is set, and awaits the last response."""
        async with http.AsyncClient(timeout=60) as client:
            number = 0
            while not stop.is_set():
                await self._send(client, number)
                if pace:
                    await asyncio.sleep(pace)
                number += 1

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        ids = [f"{self._name}-{number}-{index}" for index in range(self._size)]
        comments = [*map(comment, ids)]
        if self._edits and number % 2:
            edited, text = f"{self._name}-edited", f"Text {number}"
            ids += [edited] if edited not in self.edited else []
            self.edited[edited] = text
            comments.append(comment(edited, text))
        self.sent += ids
        answer = await self._until_answered(client, body(*comments))
        assert adds_up(answer)
        assert not answer["rejected"]
        assert answer["received"] == len(comments)
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


def assert_unavailable(response: httpx.Response, *slugs: str) -> None:
    """Asserts a problem document of one of these kinds, with Retry-After."""
    assert response.status_code == 503, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"].removeprefix("urn:comment-monitor:problem:") in slugs
    assert int(response.headers["Retry-After"]) > 0


class Traffic:
    """Several running senders."""

    def __init__(self, senders: list[Sender]):
        self._senders = senders

    @property
    def sent(self) -> list[str]:
        return [id_ for sender in self._senders for id_ in sender.sent]

    @property
    def confirmed(self) -> set[str]:
        return {id_ for sender in self._senders for id_ in sender.confirmed}

    @property
    def statuses(self) -> set[int]:
        return {status for sender in self._senders for status in sender.statuses}

    async def goes_on(self, comments: int = 100) -> None:
        """Waits until this many more comments are confirmed."""
        wanted = len(self.confirmed) + comments
        await until(lambda: len(self.confirmed) >= wanted, seconds=60)


@asynccontextmanager
async def traffic(url: str, *, clients: int = 3, size: int = 5) -> AsyncIterator[Traffic]:
    """Runs clients that send until the end of the block, which waits for their last responses."""
    stop = asyncio.Event()
    senders = [Sender(url, name=f"client{number}", size=size) for number in range(clients)]
    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.send_until(stop))
        yield Traffic(senders)
        stop.set()


def stored(dsn: str) -> list[str]:
    """Returns the ids of all rows, including duplicates."""
    return [row[0] for row in execute(dsn, "SELECT comment_id FROM comments ORDER BY id")]


def analysed(dsn: str) -> set[str]:
    """Returns the ids of the comments whose latest text has a result."""
    rows = execute(
        dsn,
        "SELECT c.comment_id FROM comments c JOIN comment_analyses a ON a.comment_id = c.id "
        "AND a.revision = c.revision AND a.status = 'done'",
    )
    return {row[0] for row in rows}
