"""Duplicates that Redis forgot: where they come in a row, PostgreSQL is asked for them, and neither locks nor logs."""

import asyncio

import redis
from tests.conftest import MakeSettings, execute, metric, open_client, until
from tests.support.database import blocked, holding
from tests.support.intake import fates, process, several
from tests.support.requests import comment
from tests.support.triggers import replaced_long_ago

COUNT = "comment_db_query_duration_seconds_count"
# A row that was locked carries the transaction that did it.
LOCKED = "SELECT count(*) FROM comments WHERE xmax <> 0"


def looked() -> float:
    return metric(COUNT, query="look_for_comments")


async def test_after_a_write_of_known_ones_the_next_looks_first(make_settings: MakeSettings, dsn: str) -> None:
    before = looked()
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(40))
        assert fates(await process(client, *several(20))) == (0, 0, 20, 0)
        assert looked() == before
        assert execute(dsn, LOCKED) == [(20,)]
        duplicates = metric("comment_duplicates_detected_total", tier="database")
        assert fates(await process(client, *several(40))) == (0, 0, 40, 0)
        assert metric("comment_duplicates_detected_total", tier="database") == duplicates + 40
        assert looked() == before + 1
        assert execute(dsn, LOCKED) == [(20,)]


async def test_what_was_found_is_known_to_redis_from_then_on(make_settings: MakeSettings) -> None:
    settings = make_settings()
    async with open_client(settings) as client:
        await process(client, *several(40))
        for _ in range(2):
            forget(settings.redis_url)
            await process(client, *several(40))
        before = looked(), metric("comment_dedup_cache_hits_total")
        assert fates(await process(client, *several(40))) == (0, 0, 40, 0)
        assert (looked(), metric("comment_dedup_cache_hits_total")) == (before[0], before[1] + 40)


async def test_edits_and_new_ones_among_them_are_taken(make_settings: MakeSettings, dsn: str) -> None:
    before = looked()
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(40))
        await process(client, *several(40))
        mixed = [*several(30), comment("c30", "edited"), comment("c31", "edited too"), *several(5, "new")]
        assert fates(await process(client, *mixed)) == (5, 2, 30, 0)
        assert looked() == before + 1
        texts = execute(dsn, "SELECT text FROM comments WHERE comment_id IN ('c30', 'c31') ORDER BY comment_id")
        assert texts == [("edited",), ("edited too",)]
        assert execute(dsn, "SELECT count(*) FROM comments") == [(45,)]
        waiting = execute(dsn, "SELECT sum(cardinality(comment_ids)) FROM analysis_outbox")
        assert waiting == [(40 + 5 + 2,)]


async def test_new_ones_end_the_looking(make_settings: MakeSettings) -> None:
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(10))
        await process(client, *several(10))
        before = looked()
        assert fates(await process(client, *several(10, "new"))) == (10, 0, 0, 0)
        assert fates(await process(client, *several(10, "newer"))) == (10, 0, 0, 0)
        assert looked() == before + 1


async def test_where_a_comment_stands_twice_its_first_text_takes_the_lock(
    make_settings: MakeSettings, dsn: str
) -> None:
    """Its edit would else lock it after others that sort behind it, and two such writers wait for each other."""
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(10))
        await process(client, *several(10))
        before = looked()
        assert fates(await process(client, *several(10), comment("c0", "edited"))) == (0, 1, 10, 0)
        assert looked() == before
        assert execute(dsn, "SELECT text, revision FROM comments WHERE comment_id = 'c0'") == [("edited", 2)]


async def test_an_edit_meanwhile_is_not_forgotten_with_redis(make_settings: MakeSettings, dsn: str) -> None:
    """What was found may be edited before the write beside it is over; its note must not come after that."""
    settings = make_settings()
    replaced_long_ago(dsn)
    async with open_client(settings) as looking, open_client(settings) as editing:
        await process(looking, comment("a", "A"), comment("z", "Z"), *several(10))
        forget(settings.redis_url)
        await process(looking, *several(10))
        forget(settings.redis_url)
        before = looked()
        with holding(dsn, "SELECT FROM comments WHERE comment_id = 'z' FOR UPDATE"):
            under_way = asyncio.create_task(process(looking, comment("a", "A"), comment("z", "Z2")))
            await until(lambda: blocked(dsn))
            assert looked() == before + 1
            assert fates(await process(editing, comment("a", "B"))) == (0, 1, 0, 0)
            forget(settings.redis_url)
        assert fates(await under_way) == (0, 1, 1, 0)
        assert fates(await process(looking, comment("a", "A"))) == (0, 1, 0, 0)
        assert execute(dsn, "SELECT text, revision FROM comments WHERE comment_id = 'a'") == [("A", 3)]


def forget(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
