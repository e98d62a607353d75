"""SIGKILL at each named point of a comment's way: what was answered 200 is there, once, and gets its analysis."""

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
    """Everything that was sent is stored once, in its last text, and analysed, and every invariant holds."""
    await system.until_analysed()
    assert sorted(stored(system.dsn)) == sorted(sender.sent)
    texts = dict(execute(system.dsn, "SELECT comment_id, text FROM comments"))
    assert sender.edited.items() <= texts.items()
    assert analysed(system.dsn) == set(sender.sent)
    assert await system.broken_promises() == []
    for program in (system.orchestrator, system.worker):
        assert "Traceback (" not in program.output, program.output


@pytest.mark.parametrize("point", ORCHESTRATOR)
async def test_the_orchestrator_is_killed(system: System, tmp_path: Path, point: str) -> None:
    marker = tmp_path / "killed"
    system.worker.start()
    system.orchestrator.start((point, "4", "self", str(marker)))
    await system.until_healthy()
    # The publisher too: what it does not know to be there is sent by others, or many at once.
    await system.until_health("ok")
    sender = Sender(system.url, edits=True)
    stop = asyncio.Event()
    # However many it takes: under way at every moment, so that the kill meets one.
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


@pytest.mark.parametrize("who", ["self", "all"])
@pytest.mark.parametrize("point", WORKER)
async def test_the_worker_is_killed(make_system: MakeSystem, tmp_path: Path, point: str, who: str) -> None:
    # Given back by the broker. A row that was sent again goes a way of its own, past one of the points.
    system = make_system(COMMENT_RESEND_AFTER=60)
    marker = tmp_path / "killed"
    system.orchestrator.start()
    # At the first passing: a busy worker takes so many batches in one go that there may be no other.
    system.worker.start((point, "1", who, str(marker)))
    await system.until_healthy()
    sender = Sender(system.url)
    await sender.send(REQUESTS)
    await until(marker.exists, seconds=60)
    if who == "all":
        assert system.worker.process.wait(60) == -signal.SIGKILL
        assert analysed(system.dsn) < set(sender.sent)
        system.worker.start()

    await all_is_well(system, sender)
    assert system.worker.process.poll() is None


@pytest.mark.parametrize("who", ["self", "all"])
@pytest.mark.parametrize("point", SLOW_WORKER)
async def test_a_worker_of_a_slow_analysis_is_killed(
    make_system: MakeSystem, tmp_path: Path, point: str, who: str
) -> None:
    """Between the statements that cut rows, give them back and count their starts; no comment is blamed for it."""
    system = make_system(SLOW_SECONDS="0.7", COMMENT_RESEND_AFTER=5, COMMENT_MAX_RETRIES=0)
    marker = tmp_path / "killed"
    system.orchestrator.start()
    await system.until_healthy()
    await system.until_health("ok")
    sender = Sender(system.url)
    await sender.send(2)
    # As if their messages were lost: they are sent again, in one.
    execute(system.dsn, "UPDATE analysis_outbox SET resends = 1, due_at = now() + interval '3 s'")
    system.worker.start((point, "1", who, str(marker)))
    await until(marker.exists, seconds=90)
    if who == "all":
        assert system.worker.process.wait(60) == -signal.SIGKILL
        system.worker.start()
    await until(lambda: not outbox(system.dsn), seconds=120)
    await all_is_well(system, sender)
    assert {one.status for one in results(system.dsn).values()} == {"done"}
