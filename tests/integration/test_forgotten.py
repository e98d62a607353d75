"""Duplicates that Redis forgot: where they come in a row, PostgreSQL looks for them, and neither locks nor logs."""

from tests.conftest import MakeSettings, execute, metric, open_client
from tests.support.intake import fates, process, several
from tests.support.requests import comment

COUNT = "comment_db_query_duration_seconds_count"
# A row that was locked carries the transaction that did it.
LOCKED = "SELECT count(*) FROM comments WHERE xmax <> 0"


def looked() -> float:
    return metric(COUNT, query="write_known_comments")


async def test_after_a_write_of_known_ones_the_next_looks_first(make_settings: MakeSettings, dsn: str) -> None:
    before = looked()
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *several(40))
        assert fates(await process(client, *several(20))) == (0, 0, 20, 0)
        assert looked() == before
        assert execute(dsn, LOCKED) == [(20,)]
        assert fates(await process(client, *several(40))) == (0, 0, 40, 0)
        assert looked() == before + 1
        assert execute(dsn, LOCKED) == [(20,)]


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
