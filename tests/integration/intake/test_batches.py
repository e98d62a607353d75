"""Batches of COMMENT_BATCH_SIZE, and writes that several requests share."""

import asyncio
import gc
from contextlib import suppress

import httpx
import pytest
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import holding, outbox
from tests.support.intake import accepted, in_turn, outcome_counts, process, queued, several
from tests.support.locks import locked
from tests.support.requests import comment, parsed

from comment_monitor.runtime import open_runtime

COUNTS = (
    "comment_processing_attempts_total",
    "comment_processing_success_total",
    "comment_processing_duration_seconds_count",
)


def transactions(dsn: str) -> list[int]:
    """Returns how many comments each transaction has stored."""
    return [count for (count,) in execute(dsn, "SELECT count(*) FROM comments GROUP BY xmin ORDER BY min(id)")]


@pytest.mark.parametrize(
    ("size", "expected"), [(5, [5, 5, 5, 5, 3]), (10, [10, 10, 3]), (25, [23])], ids=["5", "10", "25"]
)
async def test_a_request_is_split_into_batches_for_processing_and_analysis(
    make_settings: MakeSettings, dsn: str, size: int, expected: list[int]
) -> None:
    before = [metric(name) for name in COUNTS]
    async with open_client(make_settings(COMMENT_BATCH_SIZE=size)) as client:
        assert outcome_counts(await process(client, *several(23))) == (23, 0, 0, 0)
    assert [metric(name) - old for name, old in zip(COUNTS, before, strict=True)] == [len(expected)] * 3
    assert sorted((len(row.comments) for row in outbox(dsn)), reverse=True) == expected


async def test_each_stored_or_edited_comment_is_in_exactly_one_analysis_batch(
    client: httpx.AsyncClient, dsn: str
) -> None:
    await process(client, *several(30))
    execute(dsn, "DELETE FROM analysis_outbox")
    mixed = [*several(30), *several(12, "new"), *(comment(f"c{number}", "edited") for number in range(7))]
    assert outcome_counts(await process(client, *mixed)) == (12, 7, 30, 0)
    queued = [id_ for row in outbox(dsn) for id_ in row.comments]
    assert sorted(queued) == sorted([f"new{number}" for number in range(12)] + [f"c{number}" for number in range(7)])
    assert all(len(row.comments) <= 10 for row in outbox(dsn))


async def test_requests_that_arrive_during_a_write_share_the_next_write(make_settings: MakeSettings, dsn: str) -> None:
    async with open_client(make_settings(COMMENT_WRITERS=1)) as client:
        with locked(dsn):
            first = in_turn(client, several(3, "first"))
            await queued(client, 3)
            others = in_turn(client, *(several(4, f"client{number}-") for number in range(20)))
            await queued(client, 83)
        answers = await asyncio.gather(*first, *others)
    assert [answer["stored"] for answer in answers] == [3] + [4] * 20
    assert transactions(dsn) == [3, 80]
    assert sorted(len(row.comments) for row in outbox(dsn)) == [3] + [10] * 8


async def test_a_shared_write_does_not_exceed_the_configured_size(make_settings: MakeSettings, dsn: str) -> None:
    async with open_client(make_settings(COMMENT_WRITERS=1, COMMENT_WRITE_GROUP_SIZE=25)) as client:
        with locked(dsn):
            requests = in_turn(client, several(10, "first"))
            await queued(client, 10)
            requests += in_turn(client, *(several(10, f"client{number}-") for number in range(6)))
            await queued(client, 70)
        await asyncio.gather(*requests)
    assert transactions(dsn) == [10, 20, 20, 20]


async def test_each_request_of_a_shared_write_gets_its_own_counts(make_settings: MakeSettings, dsn: str) -> None:
    requests = (
        [comment("shared", "one"), comment("a")],
        [comment("shared", "one")],
        [comment("shared", "two"), comment("old")],
        [comment("old", "edited"), comment("b"), comment("shared", "two")],
    )
    async with open_client(make_settings(COMMENT_WRITERS=1)) as client:
        await process(client, comment("old"))
        with locked(dsn):
            first = in_turn(client, several(1, "first"))
            await queued(client, 1)
            others = []
            for number, request in enumerate(requests, start=1):
                others += in_turn(client, request)
                await queued(client, 1 + sum(map(len, requests[:number])))
        await asyncio.gather(*first)
        assert [outcome_counts(await sending) for sending in others] == [
            (2, 0, 0, 0),
            (0, 0, 1, 0),
            (0, 1, 1, 0),
            (1, 1, 1, 0),
        ]
    assert transactions(dsn) == [4, 1]
    assert dict(execute(dsn, "SELECT comment_id, text FROM comments WHERE comment_id IN ('shared', 'old')")) == {
        "shared": "two",
        "old": "edited",
    }


async def test_two_processes_write_the_same_comments_in_different_orders(make_settings: MakeSettings, dsn: str) -> None:
    refusals = metric("comment_processing_errors_total", reason="database-unavailable")
    comments = several(200)
    settings = make_settings(REDIS_URL="", COMMENT_MAX_RETRIES=0)
    async with open_client(settings) as first, open_client(settings) as other:
        for round_ in range(10):
            texts = [{**each, "text": f"round {round_}"} for each in comments]
            answers = await asyncio.gather(process(first, *texts), process(other, *reversed(texts)))
            kinds = [outcome_counts(each) for each in answers]
            assert sum(stored + updated for stored, updated, _, _ in kinds) == 200
            assert sum(duplicates for _, _, duplicates, _ in kinds) == 200
    assert metric("comment_processing_errors_total", reason="database-unavailable") == refusals


async def test_a_cancelled_request_leaves_the_queue(make_settings: MakeSettings, dsn: str) -> None:
    async with open_client(make_settings(COMMENT_WRITERS=1)) as client:
        with holding(dsn, "LOCK TABLE comments IN EXCLUSIVE MODE"):
            (first,) = in_turn(client, several(3, "first"))
            await queued(client, 3)
            (left,) = in_turn(client, several(50, "left"))
            await queued(client, 53)
            left.cancel()
            with suppress(asyncio.CancelledError):
                await left
            await queued(client, 3)
        assert outcome_counts(await first) == (3, 0, 0, 0)
        assert accepted(await client.post("/comments/process", json={"post_id": "p", "comments": several(1)}))
    assert sum(transactions(dsn)) == 4


async def test_a_request_leaves_no_reference_cycles(make_settings: MakeSettings) -> None:
    """Thousands of reference cycles would stop the process for as long as a commit takes."""
    async with open_runtime(make_settings(), application="test") as runtime:
        await runtime.pipeline.process(parsed(*several(30)))
        gc.collect()
        gc.disable()
        try:
            for number in range(100):
                await runtime.pipeline.process(parsed(*several(30, f"{number}-")))
            found = gc.collect()
        finally:
            gc.enable()
    assert found < 100


async def test_many_texts_of_a_comment_keep_their_order_and_delay_no_other_request(
    make_settings: MakeSettings, dsn: str
) -> None:
    """Each text is a separate statement: written in one transaction, many texts would occupy a writer."""
    versions = [comment("often", f"text {number}") for number in range(600)]
    async with open_client(make_settings(COMMENT_WRITERS=1)) as client:
        many = asyncio.create_task(process(client, *versions))
        await until(lambda: execute(dsn, "SELECT count(*) FROM comments") == [(1,)])
        assert outcome_counts(await process(client, comment("other"))) == (1, 0, 0, 0)
        assert not many.done()
        assert outcome_counts(await many) == (1, 599, 0, 0)
    latest = "SELECT text, revision FROM comments WHERE comment_id = 'often'"
    assert execute(dsn, latest) == [("text 599", 600)]
