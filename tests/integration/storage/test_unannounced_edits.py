"""Edits unknown to Redis: no process takes an old text for the latest, and no write waits for another."""

import asyncio

import httpx
import pytest
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.database import holding, violated_invariants
from tests.support.intake import lifecycle, outcome_counts, process
from tests.support.requests import comment
from tests.support.triggers import replaced_long_ago

from comment_monitor.storage import migrations

NOTES = "SELECT count(*) FROM unannounced_edits"
PREFIX = "SELECT cache_namespace FROM installation"
# Sets the last change of the prefix before the start of any lease.
LONG_AGO = "UPDATE installation SET namespace_since = '-infinity'"


async def refresh(client: httpx.AsyncClient) -> None:
    await lifecycle(client).runtime.scheduler.refresh_schema()


def usable(client: httpx.AsyncClient) -> bool:
    return lifecycle(client).runtime.cache.usable


async def test_an_edit_without_redis_does_not_wait_for_other_edits(make_settings: MakeSettings, dsn: str) -> None:
    """Another transaction holds a note of an edit and the row of the installation."""
    async with open_client(make_settings(REDIS_URL="")) as client:
        assert outcome_counts(await process(client, comment(1), comment(2))) == (2, 0, 0, 0)
        with holding(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES", "SELECT FROM installation FOR UPDATE"):
            async with asyncio.timeout(20):
                assert outcome_counts(await process(client, comment(1, "edited"))) == (0, 1, 0, 0)


async def test_edits_without_redis_update_no_shared_row(make_settings: MakeSettings, dsn: str) -> None:
    """Each write adds a note; the row of the installation changes once for all of them."""
    async with open_client(make_settings(REDIS_URL="")) as client:
        await process(client, *map(comment, range(10)))
        # The row changes 5 seconds after its last change at the earliest: on a machine that is slower, again.
        for attempt in range(10):
            await until(lambda: execute(dsn, NOTES) == [(0,)])
            execute(dsn, "UPDATE installation SET namespace_since = clock_timestamp()")
            ((before,),) = execute(dsn, "SELECT xmin::text FROM installation")
            for number in range(10):
                await process(client, comment(number, f"edited {attempt}"))
            found = execute(dsn, "SELECT xmin::text FROM installation"), execute(dsn, NOTES)
            if execute(dsn, "SELECT clock_timestamp() - namespace_since < '4 s' FROM installation") == [(True,)]:
                break
        assert found == ([(before,)], [(10,)])
        await until(lambda: execute(dsn, NOTES) == [(0,)])
        assert execute(dsn, "SELECT xmin::text FROM installation") != [(before,)]


@pytest.fixture
def first(dsn: str) -> None:
    replaced_long_ago(dsn)


async def test_a_revert_after_an_edit_unknown_to_redis_is_no_duplicate(
    make_settings: MakeSettings, dsn: str, first: None
) -> None:
    async with open_client(make_settings()) as with_redis, open_client(make_settings(REDIS_URL="")) as without:
        assert outcome_counts(await process(with_redis, comment(1, "first"))) == (1, 0, 0, 0)
        assert outcome_counts(await process(with_redis, comment(1, "first"))) == (0, 0, 1, 0)
        execute(dsn, LONG_AGO)
        assert outcome_counts(await process(without, comment(1, "second"))) == (0, 1, 0, 0)
        await refresh(with_redis)
        assert outcome_counts(await process(with_redis, comment(1, "first"))) == (0, 1, 0, 0)
        await until(lambda: usable(with_redis))
    assert execute(dsn, "SELECT text FROM comments") == [("first",)]


async def test_redis_is_ignored_while_the_prefix_cannot_be_changed(
    make_settings: MakeSettings, dsn: str, first: None
) -> None:
    async with open_client(make_settings()) as client:
        await process(client, comment(1, "first"))
        with holding(dsn, "SELECT FROM installation FOR SHARE"):
            execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
            await refresh(client)
            assert not usable(client)
            assert outcome_counts(await process(client, comment(1, "first"))) == (0, 0, 1, 0)
            # An edit that informs Redis does not make the prefix usable.
            assert outcome_counts(await process(client, comment(1, "second"))) == (0, 1, 0, 0)
            assert not usable(client)
            assert execute(dsn, NOTES) == [(1,)]
        execute(dsn, LONG_AGO)
        await until(lambda: usable(client))
        assert execute(dsn, NOTES) == [(0,)]


async def test_the_prefix_changes_at_most_once_within_a_lease(make_settings: MakeSettings, dsn: str) -> None:
    execute(dsn, LONG_AGO)
    async with open_client(make_settings()) as client:
        execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
        await refresh(client)
        changed = execute(dsn, PREFIX)
        execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
        await refresh(client)
        assert (execute(dsn, PREFIX), execute(dsn, NOTES), usable(client)) == (changed, [(1,)], False)
        execute(dsn, "UPDATE installation SET namespace_since = namespace_since - interval '5 s'")
        await until(lambda: execute(dsn, NOTES) == [(0,)] and usable(client))
        assert execute(dsn, PREFIX) != changed


async def test_an_uncommitted_note_is_kept_for_the_next_prefix_change(make_settings: MakeSettings, dsn: str) -> None:
    execute(dsn, LONG_AGO)
    async with open_client(make_settings()) as client:
        with holding(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES") as late:
            execute(dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
            # The process also refreshes periodically, possibly a moment earlier.
            await until(lambda: execute(dsn, NOTES) == [(0,)] and usable(client))
            late.commit()
        await refresh(client)
        assert (execute(dsn, NOTES), usable(client)) == ([(1,)], False)


async def test_a_pending_note_changes_the_prefix_in_a_downgrade(empty_dsn: str) -> None:
    migrations.upgrade(empty_dsn)
    execute(empty_dsn, "INSERT INTO unannounced_edits DEFAULT VALUES")
    ((before,),) = execute(empty_dsn, PREFIX)
    migrations.downgrade(empty_dsn, "010")
    ((after,),) = execute(empty_dsn, PREFIX)
    assert after != before


async def test_each_edit_without_redis_changes_the_prefix_on_the_previous_schema(
    empty_dsn: str, make_settings: MakeSettings
) -> None:
    """The previous release, whose pods still run, does not know notes."""
    migrations.upgrade(empty_dsn, "010")
    settings = make_settings(POSTGRES_DSN=empty_dsn, REDIS_URL="")
    async with open_client(settings) as client:
        await process(client, comment(1))
        before = execute(empty_dsn, PREFIX)
        assert outcome_counts(await process(client, comment(1, "edited"))) == (0, 1, 0, 0)
        assert execute(empty_dsn, PREFIX) != before
    async with open_client(make_settings(POSTGRES_DSN=empty_dsn)) as client:
        assert usable(client)
        assert outcome_counts(await process(client, comment(1, "edited again"))) == (0, 1, 0, 0)
        await asyncio.to_thread(migrations.upgrade, empty_dsn)
        await refresh(client)
        assert outcome_counts(await process(client, comment(1, "edited a third time"))) == (0, 1, 0, 0)
    assert await violated_invariants(settings) == []
