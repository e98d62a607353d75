"""`comment-monitor status` with orchestrator and worker in separate processes, as in a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Broker, execute, until
from tests.support import forked
from tests.support.exported import ours, until_reported, value
from tests.support.requests import comment
from tests.support.system import Program, System


@pytest.fixture
async def system(tmp_path: Path, environment: dict[str, str], rabbitmq: Broker) -> AsyncIterator[System]:
    running = System(
        tmp_path,
        {**environment, "CELERY_BROKER_URL": rabbitmq.url, "COMMENT_CHECK_INTERVAL": "1"},
        worker_metrics=True,
    )
    yield running
    running.end()


def status(system: System, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return forked.run(
        [sys.executable, "-m", "comment_monitor", "status", "--interval", "0.5", "--url", system.url, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip


def worker_url(system: System) -> str:
    return f"http://127.0.0.1:{system.worker_metrics_port}/metrics"


def report(system: System, *metrics: str) -> dict[str, Any]:
    done = status(system, "--json", *(word for url in metrics for word in ("--metrics-url", url)))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_analysis_rates_come_only_from_metrics_of_workers(system: System) -> None:
    await system.start()
    until_reported(worker_url(system))
    # A worker that has analysed nothing yet reports zero, not unknown.
    assert report(system, system.metrics_url, worker_url(system))["a_second"]["analysed"] == 0
    await system.until_working()
    # The count is increased after the commit.
    await until(lambda: value(ours(worker_url(system)), "comment_analysis_total", outcome="done") == 1)

    alone = report(system, system.metrics_url)
    assert alone["metrics_of"] == {"orchestrators": 1, "workers": 0, "both_in_one": 0}
    assert alone["a_second"]["analysed"] is None
    assert alone["since_start"]["analysed"] is None
    assert (alone["a_second"]["stored"], alone["since_start"]["stored"]) == (0, 1)
    shown = status(system, "--metrics-url", system.metrics_url)
    assert shown.returncode == 0
    assert "no worker's metrics (--metrics-url)" in shown.stdout
    [line] = [row.split() for row in shown.stdout.splitlines() if row.startswith(" analysed")]
    assert line[:3] == ["analysed", "-", "-"]

    both = report(system, system.metrics_url, worker_url(system))
    assert both["metrics_of"] == {"orchestrators": 1, "workers": 1, "both_in_one": 0}
    assert (both["a_second"]["analysed"], both["since_start"]["analysed"]) == (0, 1)
    others = report(system, worker_url(system))
    assert (others["a_second"]["stored"], others["queue"], others["backlog"]) == (None, None, None)
    assert others["since_start"]["analysed"] == 1


async def test_a_worker_without_a_metrics_port_is_included_by_its_shared_folder(system: System, tmp_path: Path) -> None:
    shared = {**system.environment, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")}
    ports = ("--port", str(system.port), "--metrics-port", str(system.metrics_port))
    system.orchestrator = Program(tmp_path, shared, "serve", *ports)
    system.worker = Program(tmp_path, shared, "worker", "--concurrency", "1", "--metrics-port", "0")
    await system.start(system.orchestrator)
    assert report(system, system.metrics_url)["a_second"]["analysed"] is None
    system.worker.start()
    await system.until_working()
    await until(lambda: report(system, system.metrics_url)["since_start"]["analysed"] == 1, seconds=60)
    assert report(system, system.metrics_url)["metrics_of"] == {"orchestrators": 0, "workers": 0, "both_in_one": 1}


async def test_a_stopped_worker_shows_as_a_backlog_and_an_unavailable_url(system: System) -> None:
    await system.start()
    until_reported(worker_url(system))
    await system.until_working()
    os.killpg(system.worker.process.pid, signal.SIGSTOP)
    try:
        await system.post(comment("held"))
        await until(lambda: (report(system, system.metrics_url)["oldest_seconds"] or 0) > 0, seconds=60)
        assert report(system, system.metrics_url)["backlog"] == 1
        both = ("--metrics-url", system.metrics_url, "--metrics-url", worker_url(system))
        shown = status(system, *both)
        assert shown.returncode == 1
        # The line is wrapped at 80 columns.
        assert f"Nothing answers at {worker_url(system)} (timed out)" in " ".join(shown.stdout.split())
        [line] = [row for row in shown.stdout.splitlines() if "oldest waiting" in row]
        assert line.rstrip().endswith(" s")
        assert "no worker's metrics" in shown.stdout
    finally:
        os.killpg(system.worker.process.pid, signal.SIGCONT)
    await system.until_analysed()
    await until(lambda: report(system, system.metrics_url)["oldest_seconds"] == 0, seconds=60)


async def test_a_violated_invariant_is_reported(system: System) -> None:
    await system.start(system.orchestrator)
    await until(lambda: report(system, system.metrics_url)["invariants"], seconds=60)
    assert set(report(system, system.metrics_url)["invariants"].values()) == {0}
    assert "5 of 5 hold" in status(system, "--metrics-url", system.metrics_url).stdout
    await system.post(comment("lost"))
    execute(system.dsn, "DELETE FROM analysis_outbox")
    await until(lambda: report(system, system.metrics_url)["invariants"]["analysed"] == 1, seconds=60)
    shown = status(system, "--metrics-url", system.metrics_url).stdout
    assert "Invariant analysed is broken 1 times: see `comment-monitor check`." in shown
    assert "4 of 5 hold" in shown


async def test_unknown_values_are_shown_as_a_dash(system: System) -> None:
    await system.start(system.orchestrator)
    await until(lambda: report(system, system.metrics_url)["backlog"] == 0, seconds=60)
    execute(system.dsn, "ALTER TABLE analysis_outbox RENAME TO gone")
    await until(lambda: report(system, system.metrics_url)["backlog"] is None, seconds=60)
    shown = status(system, "--metrics-url", system.metrics_url).stdout
    for name in ("not yet analysed", "oldest waiting"):
        [line] = [row for row in shown.splitlines() if name in row]
        assert line.split()[-1] == "-"
