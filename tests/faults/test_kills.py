"""SIGKILL at each named point of a comment's way: what was answered 200 is there, once, and gets its analysis."""

import asyncio
import signal
from pathlib import Path

import pytest
from tests.conftest import until
from tests.support.killpoints import ORCHESTRATOR, WORKER
from tests.support.system import Sender, System, analysed, stored

REQUESTS = 12


async def all_is_well(system: System, sender: Sender) -> None:
    """Everything that was sent is stored once and analysed, and every invariant holds."""
    await system.until_analysed()
    assert sorted(stored(system.dsn)) == sorted(sender.sent)
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
    sender = Sender(system.url)
    sending = asyncio.create_task(sender.send(REQUESTS))
    await until(lambda: system.orchestrator.process.poll() is not None)
    assert system.orchestrator.process.returncode == -signal.SIGKILL
    assert marker.exists()
    assert sender.confirmed <= set(stored(system.dsn))
    assert sender.confirmed < set(sender.sent)

    system.orchestrator.start()
    await sending
    assert sender.broken
    await all_is_well(system, sender)


@pytest.mark.parametrize("who", ["self", "all"])
@pytest.mark.parametrize("point", WORKER)
async def test_the_worker_is_killed(system: System, tmp_path: Path, point: str, who: str) -> None:
    marker = tmp_path / "killed"
    system.orchestrator.start()
    # At the first passing: a busy worker takes so many batches in one go that there may be no other.
    system.worker.start((point, "1", who, str(marker)))
    await system.until_healthy()
    sender = Sender(system.url)
    await sender.send(REQUESTS)
    await until(marker.exists)
    if who == "all":
        assert system.worker.process.wait(10) == -signal.SIGKILL
        assert analysed(system.dsn) < set(sender.sent)
        system.worker.start()

    await all_is_well(system, sender)
    assert system.worker.process.poll() is None
