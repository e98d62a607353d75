"""`comment-monitor status` where orchestrator and worker are processes of their own, as in a cluster."""

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
from tests.support.exported import ours, until_told, value
from tests.support.requests import comment
from tests.support.system import Program, System


@pytest.fixture
async def system(tmp_path: Path, environment: dict[str, str], rabbitmq: Broker) -> AsyncIterator[System]:
    one = System(
        tmp_path,
        {**environment, "CELERY_BROKER_URL": rabbitmq.url, "COMMENT_CHECK_INTERVAL": "1"},
        worker_metrics=True,
    )
    yield one
    one.end()


def status(system: System, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "comment_monitor", "status", "--interval", "0.5", "--url", system.url, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip


def worker_url(system: System) -> str:
    return f"http://127.0.0.1:{system.worker_metrics_port}/metrics"


def told(system: System, *metrics: str) -> dict[str, Any]:
    done = status(system, "--json", *(word for url in metrics for word in ("--metrics-url", url)))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_an_orchestrators_metrics_do_not_tell_what_workers_analyse(system: System) -> None:
    await system.start()
    until_told(worker_url(system))
    # Before anything was analysed too: a worker that has done nothing is one.
    assert told(system, system.metrics_url, worker_url(system))["a_second"]["analysed"] == 0
    await system.until_working()
    # The count follows the commit, so it may be a moment later.
    await until(lambda: value(ours(worker_url(system)), "comment_analysis_total", outcome="done") == 1)

    alone = told(system, system.metrics_url)
    assert alone["metrics_of"] == {"orchestrators": 1, "workers": 0, "both_in_one": 0}
    assert alone["a_second"]["analysed"] is None
    assert alone["since_start"]["analysed"] is None
    assert (alone["a_second"]["stored"], alone["since_start"]["stored"]) == (0, 1)
    shown = status(system, "--metrics-url", system.metrics_url)
    assert shown.returncode == 0
    assert "no worker's metrics (--metrics-url)" in shown.stdout
    [line] = [one.split() for one in shown.stdout.splitlines() if one.startswith(" analysed")]
    assert line[:3] == ["analysed", "-", "-"]

    both = told(system, system.metrics_url, worker_url(system))
    assert both["metrics_of"] == {"orchestrators": 1, "workers": 1, "both_in_one": 0}
    assert (both["a_second"]["analysed"], both["since_start"]["analysed"]) == (0, 1)
    others = told(system, worker_url(system))
    assert (others["a_second"]["stored"], others["queue"], others["backlog"]) == (None, None, None)
    assert others["since_start"]["analysed"] == 1


async def test_a_worker_without_a_port_is_seen_in_the_sum_of_its_folder(system: System, tmp_path: Path) -> None:
    shared = {**system.environment, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")}
    ports = ("--port", str(system.port), "--metrics-port", str(system.metrics_port))
    system.orchestrator = Program(tmp_path, shared, "serve", *ports)
    system.worker = Program(tmp_path, shared, "worker", "--concurrency", "1", "--metrics-port", "0")
    await system.start(system.orchestrator)
    assert told(system, system.metrics_url)["a_second"]["analysed"] is None
    system.worker.start()
    await system.until_working()
    await until(lambda: told(system, system.metrics_url)["since_start"]["analysed"] == 1, seconds=60)
    assert told(system, system.metrics_url)["metrics_of"] == {"orchestrators": 0, "workers": 0, "both_in_one": 1}


async def test_with_its_worker_held_it_tells_what_waits_and_who_does_not_answer(system: System) -> None:
    await system.start()
    until_told(worker_url(system))
    await system.until_working()
    os.killpg(system.worker.process.pid, signal.SIGSTOP)
    try:
        await system.post(comment("held"))
        await until(lambda: (told(system, system.metrics_url)["oldest_seconds"] or 0) > 0, seconds=60)
        assert told(system, system.metrics_url)["backlog"] == 1
        both = ("--metrics-url", system.metrics_url, "--metrics-url", worker_url(system))
        shown = status(system, *both)
        assert shown.returncode == 1
        # Folded at 80 columns.
        assert f"Nothing answers at {worker_url(system)} (timed out)" in " ".join(shown.stdout.split())
        [line] = [one for one in shown.stdout.splitlines() if "oldest waiting" in one]
        assert line.rstrip().endswith(" s")
        assert "no worker's metrics" in shown.stdout
    finally:
        os.killpg(system.worker.process.pid, signal.SIGCONT)
    await system.until_analysed()
    await until(lambda: told(system, system.metrics_url)["oldest_seconds"] == 0, seconds=60)


async def test_a_broken_invariant_is_told(system: System) -> None:
    await system.start(system.orchestrator)
    await until(lambda: told(system, system.metrics_url)["invariants"], seconds=60)
    assert set(told(system, system.metrics_url)["invariants"].values()) == {0}
    assert "5 of 5 hold" in status(system, "--metrics-url", system.metrics_url).stdout
    await system.post(comment("lost"))
    execute(system.dsn, "DELETE FROM analysis_outbox")
    await until(lambda: told(system, system.metrics_url)["invariants"]["analysed"] == 1, seconds=60)
    shown = status(system, "--metrics-url", system.metrics_url).stdout
    assert "Invariant analysed is broken 1 times: see `comment-monitor check`." in shown
    assert "4 of 5 hold" in shown


async def test_what_nobody_knows_while_the_database_is_away_is_a_dash(system: System) -> None:
    await system.start(system.orchestrator)
    await until(lambda: told(system, system.metrics_url)["backlog"] == 0, seconds=60)
    execute(system.dsn, "ALTER TABLE analysis_outbox RENAME TO gone")
    await until(lambda: told(system, system.metrics_url)["backlog"] is None, seconds=60)
    shown = status(system, "--metrics-url", system.metrics_url).stdout
    for name in ("not yet analysed", "oldest waiting"):
        [line] = [one for one in shown.splitlines() if name in one]
        assert line.split()[-1] == "-"
