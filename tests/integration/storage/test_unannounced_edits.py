"""Edits that Redis is not told of: no process takes the old text for the latest, and no write waits for another."""

import asyncio

import httpx
import pytest
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.database import broken_promises, holding
from tests.support.intake import fates, lifecycle, process
from tests.support.requests import comment
from tests.support.triggers import replaced_long_ago

from comment_monitor.storage import migrations

NOTES = "SELECT count(*) FROM unannounced_edits"
PREFIX = "SELECT cache_namespace FROM installation"
# As if the last change of the prefix lay further back than any lease.
LONG_AGO = "UPDATE installation SET namespace_since = '-infinity'"


async def look(client: httpx.AsyncClient) -> None:
    await lifecycle(client).runtime.scheduler.refresh_schema()


def usable(client: httpx.AsyncClient) -> bool:
    return lifecycle(client).runtime.cache.usable


async def test_an_edit_without_redis_waits_for_no_other(make_settings: MakeSettings, dsn: str) -> None:
    """Another write that holds an edit is not committed yet; so was the row of the installation."""
    async with open_client(make_settings(REDIS_URL="")) as client:
        assert fates(await process(client, comment(1), comment(2))) == (2, 0, 0, 0)
        with holding(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES", "SELECT FROM installation FOR UPDATE"):
            async with asyncio.timeout(20):
                assert fates(await process(client, comment(1, "edited"))) == (0, 1, 0, 0)


async def test_edits_without_redis_write_no_row_twice(make_settings: MakeSettings, dsn: str) -> None:
    """Their notes are as many as the writes; the row of the installation changes once for all of them."""
    async with open_client(make_settings(REDIS_URL="")) as client:
        await until(lambda: execute(dsn, NOTES) == [(0,)])
        execute(dsn, "UPDATE installation SET namespace_since = clock_timestamp()")
        ((before,),) = execute(dsn, "SELECT xmin::text FROM installation")
        await process(client, *map(comment, range(10)))
        for number in range(10):
            await process(client, comment(number, "edited"))
        if execute(dsn, "SELECT clock_timestamp() - namespace_since < '4 s' FROM installation") == [(True,)]:
            assert execute(dsn, "SELECT xmin::text FROM installation") == [(before,)]
            assert execute(dsn, NOTES) == [(10,)]
        await until(lambda: execute(dsn, NOTES) == [(0,)])
        assert execute(dsn, "SELECT xmin::text FROM installation") != [(before,)]


@pytest.fixture
def first(dsn: str) -> None:
    replaced_long_ago(dsn)


async def test_a_revert_after_an_edit_that_redis_was_not_told_of_is_no_duplicate(
    make_settings: MakeSettings, dsn: str, first: None
) -> None:
    async with open_client(make_settings()) as with_redis, open_client(make_settings(REDIS_URL="")) as without:
        assert fates(await process(with_redis, comment(1, "first"))) == (1, 0, 0, 0)
        assert fates(await process(with_redis, comment(1, "first"))) == (0, 0, 1, 0)
        execute(dsn, LONG_AGO)
        assert fates(await process(without, comment(1, "second"))) == (0, 1, 0, 0)
        await look(with_redis)
        assert fates(await process(with_redis, comment(1, "first"))) == (0, 1, 0, 0)
        await until(lambda: usable(with_redis))
    assert execute(dsn, "SELECT text FROM comments") == [("first",)]


async def test_while_the_prefix_can_not_be_changed_redis_is_not_believed(
    make_settings: MakeSettings, dsn: str, first: None
) -> None:
    async with open_client(make_settings()) as client:
        await process(client, comment(1, "first"))
        with holding(dsn, "SELECT FROM installation FOR SHARE"):
            execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
            await look(client)
            assert not usable(client)
            assert fates(await process(client, comment(1, "first"))) == (0, 0, 1, 0)
            # An edit that tells Redis does not make the prefix one to go by.
            assert fates(await process(client, comment(1, "second"))) == (0, 1, 0, 0)
            assert not usable(client)
            assert execute(dsn, NOTES) == [(1,)]
        execute(dsn, LONG_AGO)
        await until(lambda: usable(client))
        assert execute(dsn, NOTES) == [(0,)]


async def test_the_prefix_is_not_changed_twice_within_a_lease(make_settings: MakeSettings, dsn: str) -> None:
    execute(dsn, LONG_AGO)
    async with open_client(make_settings()) as client:
        execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
        await look(client)
        changed = execute(dsn, PREFIX)
        execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
        await look(client)
        assert (execute(dsn, PREFIX), execute(dsn, NOTES), usable(client)) == (changed, [(1,)], False)
        execute(dsn, "UPDATE installation SET namespace_since = namespace_since - interval '5 s'")
        await until(lambda: execute(dsn, NOTES) == [(0,)] and usable(client))
        assert execute(dsn, PREFIX) != changed


async def test_a_note_that_is_not_committed_yet_is_kept_for_the_next_change(
    make_settings: MakeSettings, dsn: str
) -> None:
    execute(dsn, LONG_AGO)
    async with open_client(make_settings()) as client:
        with holding(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES") as late:
            execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
            # The process looks by itself too, which may be a moment earlier.
            await until(lambda: execute(dsn, NOTES) == [(0,)] and usable(client))
            late.commit()
        await look(client)
        assert (execute(dsn, NOTES), usable(client)) == ([(1,)], False)


async def test_a_note_that_nobody_took_up_is_not_lost_on_the_way_back(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn)
    execute(empty_dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
    ((before,),) = execute(empty_dsn, PREFIX)
    migrations.downgrade(empty_dsn, "010")
    ((after,),) = execute(empty_dsn, PREFIX)
    assert after != before


async def test_on_the_schema_before_each_such_edit_changes_the_prefix(
    empty_dsn: str, make_settings: MakeSettings
) -> None:
    """The release before, whose pods still run, knows nothing of notes."""
    migrations.upgrade(empty_dsn, "010")
    settings = make_settings(POSTGRES_DSN=empty_dsn, REDIS_URL="")
    async with open_client(settings) as client:
        await process(client, comment(1))
        before = execute(empty_dsn, PREFIX)
        assert fates(await process(client, comment(1, "edited"))) == (0, 1, 0, 0)
        assert execute(empty_dsn, PREFIX) != before
    async with open_client(make_settings(POSTGRES_DSN=empty_dsn)) as client:
        assert usable(client)
        assert fates(await process(client, comment(1, "edited again"))) == (0, 1, 0, 0)
        await asyncio.to_thread(migrations.upgrade, empty_dsn)
        await look(client)
        assert fates(await process(client, comment(1, "edited once more"))) == (0, 1, 0, 0)
    assert await broken_promises(settings) == []
