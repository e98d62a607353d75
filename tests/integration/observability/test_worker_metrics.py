"""Metrics of a real worker: after a kill of a child or of the worker, with busy children, and beside a service."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from tests.conftest import Broker, MakeSettings, execute, project_root, until
from tests.support import forked
from tests.support.database import outbox, results, take_in
from tests.support.deadly import EXIT, HANG, KILL
from tests.support.exported import NEVER_FALLS, Series, fallen, ours, until_reported, value
from tests.support.rabbitmq import free_port
from tests.support.requests import comment, parsed

from comment_monitor.core.config import Settings
from comment_monitor.messaging.celery_app import make_celery
from comment_monitor.observability.multiprocess_metrics import OWN_PREFIX
from comment_monitor.runtime import open_runtime

TOTAL = "comment_analysis_total"
OF_ORCHESTRATOR = {
    "comment_processing_queue_length",
    "comment_schema_usable",
    "comment_schema_at_head",
    "comment_analysis_backlog",
    "comment_analysis_oldest_seconds",
    "comment_recent_index_age_seconds",
    "comment_invariant_violations",
    "comment_invariant_check_timestamp_seconds",
    "comment_invariant_check_interval_seconds",
}


@pytest.fixture
def settings(make_settings: MakeSettings, rabbitmq: Broker) -> Settings:
    return make_settings(
        CELERY_BROKER_URL=rabbitmq.url,
        COMMENT_PROCESSING_TIMEOUT=15,
        COMMENT_SWEEP_INTERVAL=0.1,
        COMMENT_RESEND_AFTER=2,
        COMMENT_MAX_RETRIES=1,
    )


class Running:
    """A running worker, and the URL of its metrics."""

    def __init__(self, settings: Settings, folder: Path, command: list[str], **more: str):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        variables = {
            "POSTGRES_DSN": settings.postgres_dsn,
            "REDIS_URL": settings.redis_url,
            "CELERY_BROKER_URL": settings.broker_url,
            "COMMENT_PROCESSING_TIMEOUT": str(settings.processing_timeout),
            "COMMENT_MAX_RETRIES": str(settings.max_retries),
            "TMPDIR": str(folder),
            **more,
        }
        words = [word.format(port=self.port, other=free_port()) for word in command]
        with (folder / f"{self.port}.log").open("wb") as log:
            start = forked.Popen if words[1] == "-m" else subprocess.Popen
            self.process = start(
                words,
                env={**os.environ, **variables},
                cwd=project_root(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kills the worker and its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def children(self) -> list[int]:
        """Returns the PIDs of its pool."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]


WORKER = [sys.executable, "-m", "tests.support.deadly", "worker", "--concurrency", "{n}", "--metrics-port", "{{port}}"]
SERVE = [sys.executable, "-m", "comment_monitor", "serve", "--port", "{other}", "--metrics-port", "{port}"]
PLAIN = [str(Path(sys.executable).parent / "celery"), "-A", "comment_monitor.tasks", "worker", "--concurrency", "1"]


class Start(Protocol):
    def __call__(self, command: list[str] | None = None, *, concurrency: int = 1, **more: str) -> Running: ...


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Returns a function that starts a worker, or another command."""
    with ExitStack() as stack:

        def begin(command: list[str] | None = None, *, concurrency: int = 1, **more: str) -> Running:
            words = command or [word.format(n=concurrency) for word in WORKER]
            running = Running(settings, tmp_path, words, **more)
            stack.callback(running.kill)
            return running

        yield begin


async def analysed(settings: Settings, *texts: str) -> None:
    """Processes these comments, and waits until all of them are analysed."""
    async with open_runtime(settings, application="test") as runtime:
        await runtime.pipeline.process(parsed(*(comment(name, name) for name in texts)))
        await until(lambda: not outbox(settings.postgres_dsn), seconds=90)


def counted(found: Series) -> dict[str, float | None]:
    return {outcome: value(found, TOTAL, outcome=outcome) for outcome in ("done", "failed")}


def stored(settings: Settings) -> dict[str, int]:
    states = [result.status for result in results(settings.postgres_dsn).values()]
    return {outcome: states.count(outcome) for outcome in ("done", "failed")}


async def until_counts_match(worker: Running, settings: Settings) -> None:
    """Waits until the counts match the stored results: they are increased after the commit."""
    await until(lambda: counted(ours(worker.url)) == stored(settings))


def own_folders(where: Path) -> list[Path]:
    return list(where.glob(f"{OWN_PREFIX}*"))


@pytest.mark.parametrize("word", [EXIT, KILL], ids=["exit", "kill"])
async def test_a_killed_child_lowers_no_count_and_each_result_counts_once(
    settings: Settings, start: Start, word: str
) -> None:
    worker = start()
    until_reported(worker.url)
    await analysed(settings, *(f"before {number}" for number in range(60)))
    await until_counts_match(worker, settings)
    before, children = ours(worker.url), worker.children()
    await analysed(settings, "a", "b", word, "c")
    assert worker.children() != children
    after = ours(worker.url)
    assert fallen(before, after) == []
    await until_counts_match(worker, settings)
    assert stored(settings) == {"done": 63, "failed": 1}
    assert (value(ours(worker.url), "comment_analysis_duration_seconds_count") or 0) > 0


async def test_a_worker_exports_no_metrics_of_the_orchestrator(settings: Settings, start: Start) -> None:
    worker = start()
    until_reported(worker.url)
    await analysed(settings, "a")
    found = {name for name, _ in ours(worker.url)}
    assert not found & OF_ORCHESTRATOR
    assert {TOTAL, "comment_analysis_duration_seconds_bucket", "comment_container_memory_limit_bytes"} <= found


async def test_a_worker_exports_metrics_while_every_child_hangs(settings: Settings, start: Start) -> None:
    worker = start(concurrency=2)
    until_reported(worker.url)
    await analysed(settings, "a")
    await take_in(settings, comment("b", HANG))
    await take_in(settings, comment("c", HANG))
    # The main process reports the active tasks of its children.
    inspect = make_celery(settings).control.inspect(timeout=10, limit=1)

    def active_tasks() -> int:
        return sum(map(len, (inspect.active() or {}).values()))

    async with open_runtime(settings, application="test"):
        await until(lambda: active_tasks() == 2, seconds=60)
        before = ours(worker.url)
        assert value(before, TOTAL, outcome="done") == 1
        # The time limit ends both tasks, which count as failed.
        await until(lambda: not outbox(settings.postgres_dsn), seconds=120)
    assert fallen(before, ours(worker.url)) == []
    await until_counts_match(worker, settings)
    assert stored(settings)["failed"] == 2


async def test_a_restarted_worker_continues_the_counts_in_its_folder(
    settings: Settings, start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    first = start(PROMETHEUS_MULTIPROC_DIR=str(folder))
    until_reported(first.url)
    await analysed(settings, "a", "b")
    await until_counts_match(first, settings)
    before = ours(first.url)
    first.kill()
    second = start(PROMETHEUS_MULTIPROC_DIR=str(folder))
    until_reported(second.url)
    assert fallen(before, ours(second.url)) == []
    await analysed(settings, "c")
    await until(lambda: value(ours(second.url), TOTAL, outcome="done") == 3)
    names = {path.stem.rpartition("_")[2] for path in folder.glob("*.db")}
    assert len(names) <= 2, names


async def test_a_worker_without_a_folder_starts_at_zero_and_removes_stale_folders(
    settings: Settings, start: Start, tmp_path: Path
) -> None:
    first = start()
    until_reported(first.url)
    await analysed(settings, "a")
    first.kill()
    second = start()
    until_reported(second.url)
    found = ours(second.url)
    counts = {key: count for key, count in found.items() if key[0].startswith("comment_analysis")}
    assert {key[0].endswith(NEVER_FALLS) for key in counts} == {True}
    assert set(counts.values()) == {0}
    assert len(own_folders(tmp_path)) == 1
    await analysed(settings, "b")
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(60) == 0
    assert own_folders(tmp_path) == []


async def test_a_plain_celery_worker_counts_into_the_folder_of_a_service(
    settings: Settings, start: Start, tmp_path: Path
) -> None:
    folder = str(tmp_path / "shared")
    service = start(SERVE, PROMETHEUS_MULTIPROC_DIR=folder)
    until_reported(service.url)
    start(PLAIN, PROMETHEUS_MULTIPROC_DIR=folder)
    await analysed(settings, "a", "b", "c")
    await until(lambda: value(ours(service.url), TOTAL, outcome="done") == 3)
    found = ours(service.url)
    assert value(found, "comment_processing_queue_length") == 0
    await until(lambda: value(ours(service.url), "comment_schema_usable") == 1)
    await until(lambda: value(ours(service.url), "comment_analysis_backlog") == 0)
    # A backlog that can't be measured is omitted, not exported with its last value.
    execute(settings.postgres_dsn, "ALTER TABLE analysis_outbox RENAME TO gone")
    await until(lambda: value(ours(service.url), "comment_analysis_backlog") is None)
    execute(settings.postgres_dsn, "ALTER TABLE gone RENAME TO analysis_outbox")
    await until(lambda: value(ours(service.url), "comment_analysis_backlog") == 0)
