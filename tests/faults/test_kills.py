"""SIGKILL at each named point of the data flow: comments of requests that got 200 are stored once and analysed."""

import asyncio
import signal
from pathlib import Path

import pytest
from tests.conftest import execute, until
from tests.faults.conftest import MakeSystem
from tests.support.database import outbox, results
from tests.support.killpoints import ORCHESTRATOR, SLOW_WORKER, WORKER
from tests.support.system import Sender, System, analysed, stored

REQUESTS = 12


async def all_is_well(system: System, sender: Sender) -> None:
    """Asserts that every comment is stored once with its last text and analysed, and that every invariant holds."""
    await system.until_analysed()
    assert sorted(stored(system.dsn)) == sorted(sender.sent)
    texts = dict(execute(system.dsn, "SELECT comment_id, text FROM comments"))
    assert sender.edited.items() <= texts.items()
    assert analysed(system.dsn) == set(sender.sent)
    assert await system.violated_invariants() == []
    for program in (system.orchestrator, system.worker):
        assert "Traceback (" not in program.output, program.output


@pytest.mark.parametrize("point", ORCHESTRATOR)
async def test_a_killed_orchestrator_loses_nothing(system: System, tmp_path: Path, point: str) -> None:
    marker = tmp_path / "killed"
    system.worker.start()
    system.orchestrator.start((point, "4", "self", str(marker)))
    await system.until_healthy()
    # Waits until the publisher is connected. Otherwise the sweep sends the rows, or one call of the publisher sends
    # many, and the function that kills at its fourth call is never called four times.
    await system.until_health("ok")
    sender = Sender(system.url, edits=True)
    stop = asyncio.Event()
    # Requests are in flight at every moment, so that the kill meets one.
    sending = asyncio.create_task(sender.send_until(stop, pace=0))
    await until(lambda: system.orchestrator.process.poll() is not None, seconds=60)
    assert system.orchestrator.process.returncode == -signal.SIGKILL
    assert marker.exists()
    assert sender.confirmed <= set(stored(system.dsn))
    assert sender.confirmed < set(sender.sent)

    stop.set()
    system.orchestrator.start()
    await sending
    assert sender.broken
    await all_is_well(system, sender)


@pytest.mark.parametrize("target", ["self", "all"])
@pytest.mark.parametrize("point", WORKER)
async def test_a_killed_worker_loses_nothing(make_system: MakeSystem, tmp_path: Path, point: str, target: str) -> None:
    # COMMENT_RESEND_AFTER is long so that only the broker redelivers. A row that the sweep sends again follows another
    # code path, which skips some kill points.
    system = make_system(COMMENT_RESEND_AFTER=60)
    marker = tmp_path / "killed"
    system.orchestrator.start()
    # Kills at the first call: one task may take all batches, so there may be no second call.
    system.worker.start((point, "1", target, str(marker)))
    await system.until_healthy()
    sender = Sender(system.url)
    await sender.send(REQUESTS)
    await until(marker.exists, seconds=60)
    if target == "all":
        assert system.worker.process.wait(60) == -signal.SIGKILL
        assert analysed(system.dsn) < set(sender.sent)
        system.worker.start()

    await all_is_well(system, sender)
    assert system.worker.process.poll() is None


@pytest.mark.parametrize("target", ["self", "all"])
@pytest.mark.parametrize("point", SLOW_WORKER)
async def test_a_worker_killed_during_a_slow_analysis_loses_nothing(
    make_system: MakeSystem, tmp_path: Path, point: str, target: str
) -> None:
    """Kills before and after the statements that shrink rows, give them back or count starts.

    No comment is marked as failed.
    """
    system = make_system(SLOW_SECONDS="0.7", COMMENT_RESEND_AFTER=5, COMMENT_MAX_RETRIES=0)
    marker = tmp_path / "killed"
    system.orchestrator.start()
    await system.until_healthy()
    await system.until_health("ok")
    sender = Sender(system.url)
    await sender.send(2)
    # As if the rows' messages were lost: the rows are sent again, in a single message.
    execute(system.dsn, "UPDATE analysis_outbox SET resends = 1, due_at = now() + interval '3 s'")
    system.worker.start((point, "1", target, str(marker)))
    await until(marker.exists, seconds=90)
    if target == "all":
        assert system.worker.process.wait(60) == -signal.SIGKILL
        system.worker.start()
    await until(lambda: not outbox(system.dsn), seconds=120)
    await all_is_well(system, sender)
    assert {result.status for result in results(system.dsn).values()} == {"done"}
