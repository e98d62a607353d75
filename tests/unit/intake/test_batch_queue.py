"""The bounded queue: whole requests or nothing, nothing handed out twice, nothing lost at the end."""

import asyncio

import pytest
from tests.conftest import metric

from comment_monitor.core.errors import Draining, QueueFull
from comment_monitor.core.model import DUPLICATE, STORED, UPDATED, Comment
from comment_monitor.intake.batch_queue import ProcessingQueue


def some(count: int) -> list[Comment]:
    """Comments of which only the number matters."""
    return [Comment(source="s", post_id="p", id=str(n), text="t", author="a") for n in range(count)]


async def test_a_full_queue_refuses_a_request_whole() -> None:
    """Nothing of it is accepted, and what waits stays."""
    queue = ProcessingQueue(capacity=25)
    await queue.put([some(10), some(15)])

    with pytest.raises(QueueFull):
        await queue.put([some(5), some(1)])
    assert len(queue) == 25


async def test_a_queue_that_is_not_full_takes_a_request_of_any_size() -> None:
    """A large one would otherwise wait until nobody else sends anything."""
    queue = ProcessingQueue(capacity=25)
    await queue.put([some(24)])
    await queue.put([some(100)])

    assert len(queue) == 124
    with pytest.raises(QueueFull):
        await queue.put([some(1)])


async def test_the_length_counts_until_a_batch_is_settled() -> None:
    """The gauge is what is accepted and not yet committed."""
    queue = ProcessingQueue(capacity=100)
    before = metric("comment_processing_queue_length")
    accepted = await queue.put([some(10), some(5)])
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


async def test_a_group_is_at_most_the_limit_but_never_empty() -> None:
    """A batch above the limit goes alone."""
    queue = ProcessingQueue(capacity=1000)
    await queue.put([some(10), some(10), some(10), some(50)])

    assert [len(await queue.take(20) or []) for _ in range(3)] == [2, 1, 1]


async def test_a_batch_nobody_waits_for_is_dropped() -> None:
    """Its sender has been told to repeat it."""
    queue = ProcessingQueue(capacity=1000)
    first, second = [await queue.put([some(10)]) for _ in range(2)]
    first.done.cancel()

    assert await queue.take(1000) == second.batches


async def test_a_request_ends_with_its_last_batch_or_its_first_failure() -> None:
    """In whatever order they are settled, its fates are those of its comments in order."""
    queue = ProcessingQueue(capacity=1000)
    accepted = await queue.put([some(1), some(2)])
    first, second = accepted.batches
    second.complete([STORED, DUPLICATE])
    assert not accepted.done.done()
    first.complete([UPDATED])
    assert await accepted.outcomes() == [UPDATED, STORED, DUPLICATE]

    failing = await queue.put([some(1), some(2), some(3)])
    stored, failed, late = failing.batches
    stored.complete([STORED])
    failed.fail(Draining("no"))
    with pytest.raises(Draining):
        await failing.outcomes()
    # Late, and of no consequence: its request has been answered.
    late.complete([STORED] * 3)
    late.fail(Draining("no"))
    await asyncio.sleep(0)
    assert len(queue) == 0


async def test_a_request_without_comments_ends_at_once() -> None:
    """There is nothing to wait for."""
    assert await (await ProcessingQueue(capacity=1000).put([])).outcomes() == []


async def test_after_close_the_rest_is_handed_out_and_no_more_taken() -> None:
    """Draining finishes what was accepted."""
    queue = ProcessingQueue(capacity=1000)
    batches = (await queue.put([some(10)])).batches
    await queue.close()

    with pytest.raises(Draining):
        await queue.put([some(1)])
    assert await queue.take(1000) == batches
    assert await queue.take(1000) is None


async def test_every_waiting_writer_is_woken_while_there_is_work() -> None:
    """One large request keeps several writers busy."""
    queue = ProcessingQueue(capacity=1000)
    writers = [asyncio.create_task(queue.take(10)) for _ in range(3)]
    await asyncio.sleep(0)
    batches = (await queue.put([some(10), some(10), some(10)])).batches

    groups = await asyncio.wait_for(asyncio.gather(*writers), 5)
    assert sorted((group or [])[0].arrived for group in groups) == sorted(batch.arrived for batch in batches)
