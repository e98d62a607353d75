"""SIGTERM: `/health` turns 503 first, what was accepted is finished and answered, and nothing is lost."""

import asyncio

import httpx
import pytest
from tests.conftest import until
from tests.faults.conftest import MakeSystem
from tests.support.database import blocked
from tests.support.locks import locked
from tests.support.requests import comment
from tests.support.system import Sender, System, analysed, assert_unavailable, stored, traffic

# Far below the time for which the server would wait for connections that do not end by themselves.
AT_ONCE = 12


async def leaving(system: System) -> bool:
    """`/health` says so, or nothing answers any more."""
    try:
        code, found = await system.health()
    except httpx.TransportError:
        return True
    assert (code, found["status"]) in {(200, "ok"), (503, "draining")}
    return code == 503


async def assert_refused(system: System, id_: str) -> None:
    """New work is not taken."""
    try:
        answer = await system.post(comment(id_))
    except httpx.TransportError:
        return
    assert_unavailable(answer, "draining")


@pytest.mark.parametrize("signals", [1, 5])
async def test_accepted_requests_are_finished_and_answered(system: System, signals: int) -> None:
    await system.start(system.orchestrator)
    await system.until_health("ok")
    ids = [str(number) for number in range(100)]
    with locked(system.dsn):
        accepted = [asyncio.create_task(system.post(*map(comment, ids[at : at + 25]))) for at in range(0, 100, 25)]

        async def all_accepted() -> bool:
            return await system.metric("comment_processing_queue_length") == 100

        await until(all_accepted)
        for _ in range(signals):
            system.orchestrator.ask_to_leave()
        await until(lambda: leaving(system))
        await assert_refused(system, "late")
        assert system.orchestrator.process.poll() is None
    for answer in await asyncio.gather(*accepted):
        assert answer.json()["stored"] == 25
    assert await system.orchestrator.until_ended() == 0
    assert sorted(stored(system.dsn)) == sorted(ids)
    system.has_no_complaints()


async def test_health_is_503_first_while_work_is_still_taken(make_system: MakeSystem) -> None:
    system = make_system(COMMENT_DRAIN_DELAY=4)
    await system.start(system.orchestrator)
    system.orchestrator.ask_to_leave()
    await until(lambda: leaving(system))
    assert (await system.health())[1]["status"] == "draining"
    assert (await system.post(comment("taken"))).json()["stored"] == 1
    assert await system.orchestrator.until_ended() == 0
    assert stored(system.dsn) == ["taken"]


async def test_an_idle_process_ends_at_once_whoever_keeps_a_connection(system: System) -> None:
    await system.start()
    # Before it is ready, a worker does not yet catch the signal.
    await system.until_working()
    async with httpx.AsyncClient() as client:
        await client.get(f"{system.url}/health")
        system.orchestrator.ask_to_leave()
        system.worker.ask_to_leave()
        assert await system.orchestrator.until_ended(AT_ONCE) == 0
        assert await system.worker.until_ended(AT_ONCE) == 0
    system.has_no_complaints()


async def test_replaced_under_traffic_nothing_is_lost(system: System) -> None:
    await system.start()
    async with traffic(system.url) as clients:
        for _ in range(2):
            await clients.goes_on()
            assert system.orchestrator.stop() == 0
            await system.start(system.orchestrator)
        await clients.goes_on()
    await system.all_is_well(clients.sent)


@pytest.mark.parametrize("signals", [1, 3])
async def test_a_worker_finishes_what_it_began_and_the_next_one_does_the_rest(system: System, signals: int) -> None:
    await system.start(system.orchestrator)
    sender = Sender(system.url)
    await sender.send(12)
    with locked(system.dsn, "comment_analyses"):
        system.worker.start()
        await until(lambda: blocked(system.dsn))
        for _ in range(signals):
            system.worker.ask_to_leave()
    assert await system.worker.until_ended() == 0
    assert set() < analysed(system.dsn) < set(sender.sent)
    system.worker.start()
    await system.all_is_well(sender.sent)
