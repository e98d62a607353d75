"""A database that holds writes up: bounded waiting, 503 with Retry-After beyond it, and a repeat that is safe."""

import asyncio

import httpx
import psutil
from tests.conftest import until
from tests.faults.conftest import MakeSystem
from tests.support.database import blocked
from tests.support.locks import locked
from tests.support.requests import adds_up, comment
from tests.support.system import Sender, System, assert_unavailable, stored

QUEUE_LENGTH = "comment_processing_queue_length"
ERRORS = "comment_processing_errors_total"
CAPACITY = 25
# What a full queue is shown by must not be given up meanwhile, on a busy machine either: as long as may be.
PATIENT = {"COMMENT_QUEUE_CAPACITY": CAPACITY, "COMMENT_PROCESSING_TIMEOUT": 45}


def kind(response: httpx.Response) -> str:
    """The problem's name, as the metric has it."""
    return str(response.json()["type"]).rpartition(":")[2]


async def test_a_batch_over_its_time_answers_503_and_a_repeat_is_safe(system: System) -> None:
    ids = [str(number) for number in range(40)]
    await system.start()
    with locked(system.dsn):
        answers = await asyncio.gather(*(system.post(*map(comment, part)) for part in (ids[:25], ids[15:])))
        for answer in answers:
            assert_unavailable(answer, "timeout", "database-unavailable")
        assert await system.metric(QUEUE_LENGTH) == 0
        # Nor does PostgreSQL go on with what was given up.
        await until(lambda: not blocked(system.dsn))
    repeat = (await system.post(*map(comment, ids))).json()
    assert adds_up(repeat)
    assert repeat["stored"] + repeat["duplicates"] == 40
    await system.all_is_well(ids)
    for answer in answers:
        assert await system.metric(ERRORS, reason=kind(answer)) > 0


async def test_a_full_queue_refuses_and_takes_again_once_it_has_room(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start()
    first = [f"first-{number}" for number in range(CAPACITY)]
    with locked(system.dsn):
        accepted = asyncio.create_task(system.post(*map(comment, first)))
        await until(lambda: blocked(system.dsn))
        assert await system.metric(QUEUE_LENGTH) == CAPACITY
        assert_unavailable(await system.post(comment("late")), "queue-full")
        senders = [Sender(system.url, name=f"client{number}") for number in range(8)]
        sending = [asyncio.create_task(one.send(3)) for one in senders]
        await until(lambda: all(one.statuses for one in senders))
        assert await system.metric(QUEUE_LENGTH) == CAPACITY
    assert (await accepted).json()["stored"] == CAPACITY
    await asyncio.gather(*sending)
    assert all(one.statuses == {200, 503} for one in senders)
    await system.all_is_well(first + [id_ for one in senders for id_ in one.sent])
    assert await system.metric(QUEUE_LENGTH) == 0


async def waiting(system: System, count: int) -> bool:
    """So many comments."""
    return await system.metric(QUEUE_LENGTH) == count


async def test_a_large_request_is_taken_although_others_keep_sending(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start()
    many = [f"many-{number}" for number in range(10 * CAPACITY)]
    with locked(system.dsn):
        small = asyncio.create_task(system.post(comment("small")))
        await until(lambda: blocked(system.dsn))
        large = asyncio.create_task(system.post(*map(comment, many)))
        await until(lambda: waiting(system, 1 + len(many)))
        assert_unavailable(await system.post(comment("late")), "queue-full")
    assert [(await one).status_code for one in (small, large)] == [200, 200]
    await system.all_is_well(["small", *many])


async def test_refusals_are_counted(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start(system.orchestrator)
    with locked(system.dsn):
        accepted = asyncio.create_task(system.post(*map(comment, range(CAPACITY))))
        await until(lambda: blocked(system.dsn))
        for number in range(3):
            assert_unavailable(await system.post(*map(comment, range(CAPACITY))), "queue-full")
            assert await system.metric(ERRORS, reason="queue-full") == number + 1
    assert (await accepted).status_code == 200


async def test_refused_requests_take_no_memory(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start(system.orchestrator)
    process = psutil.Process(system.orchestrator.process.pid)
    large = [comment(number, "x" * 10_000) for number in range(100)]
    first = [f"first-{number}" for number in range(CAPACITY)]

    async def refused(times: int) -> int:
        """Sends a megabyte so often; the process's memory afterwards."""
        for _ in range(times):
            assert_unavailable(await system.post(*large), "queue-full")
        return int(process.memory_info().rss)

    with locked(system.dsn):
        accepted = asyncio.create_task(system.post(*map(comment, first)))
        await until(lambda: blocked(system.dsn))
        before = await refused(20)
        assert await refused(100) < before + 30_000_000
    assert (await accepted).status_code == 200
    assert sorted(stored(system.dsn)) == sorted(first)
