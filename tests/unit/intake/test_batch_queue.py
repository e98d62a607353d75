"""The bounded queue: it accepts whole requests only, and returns each batch exactly once, also after it is closed."""

import asyncio

import pytest
from tests.conftest import metric

from comment_monitor.core.errors import Draining, QueueFull
from comment_monitor.core.model import DUPLICATE, STORED, UPDATED, Comment
from comment_monitor.intake.batch_queue import ProcessingQueue


def comments(count: int) -> list[Comment]:
    """Returns comments for tests in which only their number matters."""
    return [Comment(source="s", post_id="p", id=str(n), text="t", author="a") for n in range(count)]


async def test_a_full_queue_rejects_the_whole_request() -> None:
    """No comment of the request is accepted, and the queue does not change."""
    queue = ProcessingQueue(capacity=25)
    await queue.put([comments(10), comments(15)])

    with pytest.raises(QueueFull):
        await queue.put([comments(5), comments(1)])
    assert len(queue) == 25


async def test_a_queue_below_its_capacity_accepts_a_request_of_any_size() -> None:
    """Otherwise a large request would be rejected until no other client sends any."""
    queue = ProcessingQueue(capacity=25)
    await queue.put([comments(24)])
    await queue.put([comments(100)])

    assert len(queue) == 124
    with pytest.raises(QueueFull):
        await queue.put([comments(1)])


async def test_the_length_counts_comments_until_their_batch_is_completed() -> None:
    """The gauge is the number of accepted comments that are not committed yet."""
    queue = ProcessingQueue(capacity=100)
    before = metric("comment_processing_queue_length")
    accepted = await queue.put([comments(10), comments(5)])
    first, _ = accepted.batches
    assert metric("comment_processing_queue_length") - before == 15

    assert await queue.take(10) == [first]
    assert len(queue) == 15
    first.complete([STORED] * 10)
    assert len(queue) == 5
    accepted.done.cancel()
    await asyncio.sleep(0)
    assert len(queue) == 0
    assert metric("comment_processing_queue_length") == before


async def test_a_group_has_at_most_the_limit_but_is_never_empty() -> None:
    """A batch above the limit is a group of its own."""
    queue = ProcessingQueue(capacity=1000)
    await queue.put([comments(10), comments(10), comments(10), comments(50)])

    assert [len(await queue.take(20) or []) for _ in range(3)] == [2, 1, 1]


async def test_a_batch_of_an_ended_request_is_dropped() -> None:
    """The client has been asked to repeat the request."""
    queue = ProcessingQueue(capacity=1000)
    first, second = [await queue.put([comments(10)]) for _ in range(2)]
    first.done.cancel()

    assert await queue.take(1000) == second.batches


async def test_a_request_ends_with_its_last_batch_or_its_first_failure() -> None:
    """The outcomes have the order of the comments, whatever the order in which the batches are completed."""
    queue = ProcessingQueue(capacity=1000)
    accepted = await queue.put([comments(1), comments(2)])
    first, second = accepted.batches
    second.complete([STORED, DUPLICATE])
    assert not accepted.done.done()
    first.complete([UPDATED])
    assert await accepted.outcomes() == [UPDATED, STORED, DUPLICATE]

    failing = await queue.put([comments(1), comments(2), comments(3)])
    stored, failed, late = failing.batches
    stored.complete([STORED])
    failed.fail(Draining("no"))
    with pytest.raises(Draining):
        await failing.outcomes()
    # Completing a batch has no effect after its request has been answered.
    late.complete([STORED] * 3)
    late.fail(Draining("no"))
    await asyncio.sleep(0)
    assert len(queue) == 0


async def test_a_request_without_comments_ends_immediately() -> None:
    assert await (await ProcessingQueue(capacity=1000).put([])).outcomes() == []


async def test_a_closed_queue_returns_its_batches_and_rejects_new_requests() -> None:
    """A draining process finishes the accepted requests."""
    queue = ProcessingQueue(capacity=1000)
    batches = (await queue.put([comments(10)])).batches
    await queue.close()

    with pytest.raises(Draining):
        await queue.put([comments(1)])
    assert await queue.take(1000) == batches
    assert await queue.take(1000) is None


async def test_every_waiting_writer_gets_work_from_a_large_request() -> None:
    queue = ProcessingQueue(capacity=1000)
    writers = [asyncio.create_task(queue.take(10)) for _ in range(3)]
    await asyncio.sleep(0)
    batches = (await queue.put([comments(10), comments(10), comments(10)])).batches

    groups = await asyncio.wait_for(asyncio.gather(*writers), 5)
    assert sorted((group or [])[0].arrived for group in groups) == sorted(batch.arrived for batch in batches)
