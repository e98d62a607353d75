"""Duplicates without a cache entry: after the first write, PostgreSQL is queried for them without locks or WAL."""

import asyncio

import redis
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import blocked, holding
from tests.support.intake import outcome_counts, process, several
from tests.support.requests import comment
from tests.support.triggers import replaced_long_ago

COUNT = "comment_db_query_duration_seconds_count"
# A locked row holds the id of the locking transaction.
LOCKED = "SELECT count(*) FROM comments WHERE xmax <> 0"


def queries() -> float:
    return metric(COUNT, query="look_for_comments")


async def test_a_write_after_a_write_of_duplicates_queries_first(make_settings: MakeSettings, dsn: str) -> None:
    before = queries()
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(40))
        assert outcome_counts(await process(client, *several(20))) == (0, 0, 20, 0)
        assert queries() == before
        assert execute(dsn, LOCKED) == [(20,)]
        duplicates = metric("comment_duplicates_detected_total", tier="database")
        assert outcome_counts(await process(client, *several(40))) == (0, 0, 40, 0)
        assert metric("comment_duplicates_detected_total", tier="database") == duplicates + 40
        assert queries() == before + 1
        assert execute(dsn, LOCKED) == [(20,)]


async def test_duplicates_found_in_postgresql_are_stored_in_redis(make_settings: MakeSettings) -> None:
    settings = make_settings()
    async with open_client(settings) as client:
        await process(client, *several(40))
        for _ in range(2):
            forget(settings.redis_url)
            await process(client, *several(40))
        before = queries(), metric("comment_dedup_cache_hits_total")
        assert outcome_counts(await process(client, *several(40))) == (0, 0, 40, 0)
        assert (queries(), metric("comment_dedup_cache_hits_total")) == (before[0], before[1] + 40)


async def test_edits_and_new_comments_among_duplicates_are_stored(make_settings: MakeSettings, dsn: str) -> None:
    before = queries()
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(40))
        await process(client, *several(40))
        mixed = [*several(30), comment("c30", "edited"), comment("c31", "edited too"), *several(5, "new")]
        assert outcome_counts(await process(client, *mixed)) == (5, 2, 30, 0)
        assert queries() == before + 1
        texts = execute(dsn, "SELECT text FROM comments WHERE comment_id IN ('c30', 'c31') ORDER BY comment_id")
        assert texts == [("edited",), ("edited too",)]
        assert execute(dsn, "SELECT count(*) FROM comments") == [(45,)]
        waiting = execute(dsn, "SELECT sum(cardinality(comment_ids)) FROM analysis_outbox")
        assert waiting == [(40 + 5 + 2,)]


async def test_new_comments_end_the_querying(make_settings: MakeSettings) -> None:
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(10))
        await process(client, *several(10))
        before = queries()
        assert outcome_counts(await process(client, *several(10, "new"))) == (10, 0, 0, 0)
        assert outcome_counts(await process(client, *several(10, "newer"))) == (10, 0, 0, 0)
        assert queries() == before + 1


async def test_a_comment_sent_twice_is_locked_with_its_first_text(make_settings: MakeSettings, dsn: str) -> None:
    """Otherwise its edit would lock the comment after others that sort behind it, and two writers could deadlock."""
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(10))
        await process(client, *several(10))
        before = queries()
        assert outcome_counts(await process(client, *several(10), comment("c0", "edited"))) == (0, 1, 10, 0)
        assert queries() == before
        assert execute(dsn, "SELECT text, revision FROM comments WHERE comment_id = 'c0'") == [("edited", 2)]


async def test_a_concurrent_edit_is_kept_when_redis_loses_its_entries(make_settings: MakeSettings, dsn: str) -> None:
    """A duplicate may be edited before the write beside it is committed; its cache entry must not follow that edit."""
    settings = make_settings()
    replaced_long_ago(dsn)
    async with open_client(settings) as querying, open_client(settings) as editing:
        await process(querying, comment("a", "A"), comment("z", "Z"), *several(10))
        forget(settings.redis_url)
        await process(querying, *several(10))
        forget(settings.redis_url)
        before = queries()
        with holding(dsn, "SELECT FROM comments WHERE comment_id = 'z' FOR UPDATE"):
            under_way = asyncio.create_task(process(querying, comment("a", "A"), comment("z", "Z2")))
            await until(lambda: blocked(dsn))
            assert queries() == before + 1
            assert outcome_counts(await process(editing, comment("a", "B"))) == (0, 1, 0, 0)
            forget(settings.redis_url)
        assert outcome_counts(await under_way) == (0, 1, 1, 0)
        assert outcome_counts(await process(querying, comment("a", "A"))) == (0, 1, 0, 0)
        assert execute(dsn, "SELECT text, revision FROM comments WHERE comment_id = 'a'") == [("A", 3)]


def forget(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
