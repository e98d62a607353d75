"""A database that blocks writes: bounded waiting, then 503 with Retry-After, and requests that can be repeated."""

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
# The requests that fill the queue must not time out on a busy machine: the longest allowed timeout.
PATIENT = {"COMMENT_QUEUE_CAPACITY": CAPACITY, "COMMENT_PROCESSING_TIMEOUT": 45}


def kind(response: httpx.Response) -> str:
    """Returns the problem type as the metric names it."""
    return str(response.json()["type"]).rpartition(":")[2]


async def test_a_batch_over_its_time_limit_is_answered_503_and_can_be_repeated(system: System) -> None:
    ids = [str(number) for number in range(40)]
    await system.start()
    with locked(system.dsn):
        answers = await asyncio.gather(*(system.post(*map(comment, part)) for part in (ids[:25], ids[15:])))
        for answer in answers:
            assert_unavailable(answer, "timeout", "database-unavailable")
        assert await system.metric(QUEUE_LENGTH) == 0
        # PostgreSQL does not continue the abandoned writes either.
        await until(lambda: not blocked(system.dsn))
    repeat = (await system.post(*map(comment, ids))).json()
    assert adds_up(repeat)
    assert repeat["stored"] + repeat["duplicates"] == 40
    await system.all_is_well(ids)
    for answer in answers:
        assert await system.metric(ERRORS, reason=kind(answer)) > 0


async def test_a_full_queue_refuses_requests_until_capacity_is_free(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start()
    first = [f"first-{number}" for number in range(CAPACITY)]
    with locked(system.dsn):
        accepted = asyncio.create_task(system.post(*map(comment, first)))
        await until(lambda: blocked(system.dsn))
        assert await system.metric(QUEUE_LENGTH) == CAPACITY
        assert_unavailable(await system.post(comment("late")), "queue-full")
        senders = [Sender(system.url, name=f"client{number}") for number in range(8)]
        sending = [asyncio.create_task(sender.send(3)) for sender in senders]
        await until(lambda: all(sender.statuses for sender in senders))
        assert await system.metric(QUEUE_LENGTH) == CAPACITY
    assert (await accepted).json()["stored"] == CAPACITY
    await asyncio.gather(*sending)
    assert all(sender.statuses == {200, 503} for sender in senders)
    await system.all_is_well(first + [id_ for sender in senders for id_ in sender.sent])
    assert await system.metric(QUEUE_LENGTH) == 0


async def waiting(system: System, count: int) -> bool:
    """Whether this many comments wait."""
    return await system.metric(QUEUE_LENGTH) == count


async def test_a_request_larger_than_the_capacity_is_accepted(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start()
    many = [f"many-{number}" for number in range(10 * CAPACITY)]
    with locked(system.dsn):
        small = asyncio.create_task(system.post(comment("small")))
        await until(lambda: blocked(system.dsn))
        large = asyncio.create_task(system.post(*map(comment, many)))
        await until(lambda: waiting(system, 1 + len(many)))
        assert_unavailable(await system.post(comment("late")), "queue-full")
    assert [(await request).status_code for request in (small, large)] == [200, 200]
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


async def test_refused_requests_hold_no_memory(make_system: MakeSystem) -> None:
    system = make_system(**PATIENT)
    await system.start(system.orchestrator)
    process = psutil.Process(system.orchestrator.process.pid)
    large = [comment(number, "x" * 10_000) for number in range(100)]
    first = [f"first-{number}" for number in range(CAPACITY)]

    async def refused(times: int) -> int:
        """Sends a megabyte this many times; returns the memory of the process."""
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
