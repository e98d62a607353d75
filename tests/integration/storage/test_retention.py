"""The removal of old comments and the index of recent comments, both beside uninterrupted traffic."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg2.extensions
import pytest
from tests.conftest import MakeSettings, execute, open_client, until
from tests.support.database import (
    LONG_AGO,
    analyse_all,
    blocked,
    holding,
    names,
    opened,
    outbox,
    results,
    stored_comments,
    take_in,
    terminate_blocked,
    violated_invariants,
)
from tests.support.requests import comment

from comment_monitor.core import config
from comment_monitor.core.config import Settings
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.storage import retention
from comment_monitor.storage.postgres import UNAVAILABLE_ERRORS, Database
from comment_monitor.storage.retention import BATCH, delete_old, recent_index_begins, roll_recent_index

BOUND: Final = datetime(2020, 1, 1, tzinfo=UTC)
RECENT: Final = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index"
# The lock of a transaction that writes comments; a concurrent index build waits for such transactions.
WRITER: Final = "LOCK TABLE comments IN ROW EXCLUSIVE MODE"
SESSIONS: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)
YESTERDAY, TODAY = date(2030, 5, 9), date(2030, 5, 10)


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process uses a prefix in Redis here, so the removal need not wait."""
    monkeypatch.setattr(retention, "SETTLED", 0)


@pytest.fixture
def settings(dsn: str) -> Settings:
    return config.load({"POSTGRES_DSN": dsn, "COMMENT_PROCESSING_TIMEOUT": "15"})


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A pool with the timeout of the command."""
    async with opened(settings, timeout=3600) as pool:
        yield pool


async def removed(database: Database) -> list[int]:
    """Returns the sizes of the batches."""
    return [amount async for amount in delete_old(database, BOUND)]


async def test_only_comments_stored_before_the_bound_are_removed(settings: Settings, database: Database) -> None:
    stored_comments(settings.postgres_dsn, 3, name="old")
    stored_comments(settings.postgres_dsn, 1, name="last moment", at=BOUND - timedelta(microseconds=1))
    stored_comments(settings.postgres_dsn, 1, name="bound", at=BOUND)
    # Posted long ago and stored now: only the time of storing counts.
    await take_in(settings, comment("posted", timestamp="2001-02-03T00:00:00Z"))
    assert await removed(database) == [4]
    assert names(settings.postgres_dsn) == ["bound1", "posted"]
    assert set(results(settings.postgres_dsn)) == {"bound1"}


async def test_results_and_versions_are_removed_with_their_comment(settings: Settings, database: Database) -> None:
    for text in ("one text", "another text"):
        await take_in(settings, comment("old", text), comment("new", text))
        await analyse_all(settings)
    execute(settings.postgres_dsn, f"UPDATE comments SET created_at = '{LONG_AGO}' WHERE comment_id = 'old'")  # noqa: S608
    assert await removed(database) == [1]
    assert set(results(settings.postgres_dsn)) == {"new"}
    assert execute(settings.postgres_dsn, "SELECT count(*) FROM comment_versions") == [(1,)]
    assert await violated_invariants(settings) == []


async def test_outbox_rows_of_removed_comments_finish_without_results(settings: Settings, database: Database) -> None:
    await take_in(settings, comment("old"), comment("new"))
    await take_in(settings, comment("old too"))
    execute(settings.postgres_dsn, f"UPDATE comments SET created_at = '{LONG_AGO}' WHERE comment_id LIKE 'old%'")  # noqa: S608
    assert await removed(database) == [2]
    assert [row.comments for row in outbox(settings.postgres_dsn)] == [["new"], []]
    assert await violated_invariants(settings) == []
    await analyse_all(settings)
    assert set(results(settings.postgres_dsn)) == {"new"}
    assert outbox(settings.postgres_dsn) == []


async def test_each_batch_is_a_transaction_of_its_own(settings: Settings, database: Database) -> None:
    stored_comments(settings.postgres_dsn, 2 * BATCH + 5)
    left = []
    async for _ in delete_old(database, BOUND):
        left.append(len(names(settings.postgres_dsn)))  # noqa: PERF401 - the rest is queried between two batches
    assert left == [BATCH + 5, 5, 0]


@asynccontextmanager
async def removing(settings: Settings, database: Database) -> AsyncIterator[None]:
    """Starts a removal that is blocked in the middle of its first batch until the end of the block."""
    with holding(settings.postgres_dsn, "SELECT FROM comment_analyses ORDER BY comment_id LIMIT 1 FOR UPDATE"):
        task = asyncio.create_task(removed(database))
        try:
            await until(lambda: blocked(settings.postgres_dsn))
            yield
            assert not task.done()
        except BaseException:
            task.cancel()
            raise
    await task


async def test_new_comments_are_stored_and_analysed_during_a_removal(settings: Settings, database: Database) -> None:
    stored_comments(settings.postgres_dsn, 10)
    async with removing(settings, database):
        await take_in(settings, comment("new"))
        await analyse_all(settings)
        assert (await take_in(settings, comment("new"))).duplicates == 1
        assert results(settings.postgres_dsn)["new"].status == "done"
    assert names(settings.postgres_dsn) == ["new"]


async def test_kept_comments_can_be_edited_and_analysed_during_a_removal(
    settings: Settings, database: Database
) -> None:
    stored_comments(settings.postgres_dsn, 10)
    await take_in(settings, comment("stays"), comment("stays too"))
    async with removing(settings, database):
        assert (await take_in(settings, comment("stays", "another text"))).updated == 1
        await analyse_all(settings)
        assert {"stays", "stays too"} < set(results(settings.postgres_dsn))


async def test_a_comment_being_edited_is_removed_in_a_later_batch(settings: Settings, database: Database) -> None:
    stored_comments(settings.postgres_dsn, BATCH + 5)
    removal = delete_old(database, BOUND)
    with holding(settings.postgres_dsn, "UPDATE comments SET text = 'edited' WHERE comment_id = 'old1'"):
        assert await anext(removal) == BATCH
        assert "old1" in names(settings.postgres_dsn)
    assert [amount async for amount in removal] == [5]
    assert names(settings.postgres_dsn) == []


async def test_comments_being_edited_do_not_delay_the_removal_of_others(settings: Settings, database: Database) -> None:
    stored_comments(settings.postgres_dsn, BATCH + 5)
    with holding(settings.postgres_dsn, f"SELECT FROM comments ORDER BY id LIMIT {BATCH} FOR UPDATE"):
        assert await removed(database) == [5]
    assert await removed(database) == [BATCH]


async def test_newer_comments_with_lower_ids_do_not_delay_the_removal_of_older(
    settings: Settings, database: Database
) -> None:
    """Ids follow the order of arrival, times the server's clock, which may differ after a failover."""
    stored_comments(settings.postgres_dsn, BATCH, name="ahead", at=BOUND + timedelta(seconds=5))
    stored_comments(settings.postgres_dsn, 5, name="old", at=BOUND - timedelta(seconds=5))
    assert await removed(database) == [5]


def recent(settings: Settings) -> dict[str, bool]:
    """Returns the indexes of recent comments, and whether each is valid."""
    return {name: valid for name, valid in execute(settings.postgres_dsn, RECENT) if "comments_recent_" in name}


async def test_rolling_forward_replaces_the_index_and_a_repeat_changes_nothing(
    settings: Settings, database: Database
) -> None:
    (first,) = recent(settings)
    assert await roll_recent_index(database, TODAY) == ("comments_recent_20300503", [first])
    assert recent(settings) == {"comments_recent_20300503": True}
    ((definition,),) = execute(settings.postgres_dsn, "SELECT pg_get_indexdef('comments_recent_20300503'::regclass)")
    assert "(occurred_at DESC, id DESC) WHERE (occurred_at >= '2030-05-03 00:00:00+00'" in definition
    files = execute(settings.postgres_dsn, "SELECT pg_relation_filenode('comments_recent_20300503')")
    assert await roll_recent_index(database, TODAY) == ("comments_recent_20300503", [])
    assert execute(settings.postgres_dsn, "SELECT pg_relation_filenode('comments_recent_20300503')") == files


RECENT_ORDER: Final = "ON comments (occurred_at DESC, id DESC)"
OTHERS: Final = (
    "CREATE INDEX comments_recent_by_author ON comments (author, occurred_at)",
    "CREATE INDEX comments_recent_ ON comments (occurred_at)",
    "CREATE INDEX comments_recent_20300101 ON comments (author)",
    f"CREATE INDEX comments_recent_20300102 {RECENT_ORDER}",
    f"CREATE INDEX comments_recent_20300103 {RECENT_ORDER} WHERE occurred_at >= '2030-01-04 00:00:00+00'",
    f"CREATE INDEX comments_recent_20300104 {RECENT_ORDER} WHERE occurred_at >= '2030-01-04Z' AND source = 'threads'",
    "CREATE INDEX comments_recent_20300105 ON comments (occurred_at DESC, id) WHERE occurred_at >= '2030-01-05Z'",
    f"CREATE UNIQUE INDEX comments_recent_20300106 {RECENT_ORDER} WHERE occurred_at >= '2030-01-06 00:00:00+00'",
    "CREATE INDEX comments_recent_99999999 ON comments (id)",
    'CREATE INDEX "comments_recent_20300107; DROP TABLE comments" ON comments (id)',
)


async def test_a_foreign_index_is_kept_for_any_name(settings: Settings, database: Database) -> None:
    for statement in OTHERS:
        execute(settings.postgres_dsn, statement)
    before = recent(settings)
    (first,) = (name for name in before if name < "comments_recent_2030" and name[-1].isdigit())
    assert await roll_recent_index(database, TODAY) == ("comments_recent_20300503", [first])
    after = recent(settings)
    assert after.keys() - before.keys() == {"comments_recent_20300503"}
    assert before.keys() - after.keys() == {first}
    async with database.connection() as conn:
        assert await recent_index_begins(conn) == date(2030, 5, 3)


async def test_a_foreign_index_of_the_same_name_is_an_error_that_names_the_index(
    settings: Settings, database: Database
) -> None:
    execute(settings.postgres_dsn, "CREATE INDEX comments_recent_20300503 ON comments (author)")
    with pytest.raises(ConfigurationError, match="comments_recent_20300503"):
        await roll_recent_index(database, TODAY)
    assert len(recent(settings)) == 2


async def test_the_index_is_known_in_any_schema_and_time_zone(
    settings: Settings, database: Database, make_settings: MakeSettings
) -> None:
    dsn = settings.postgres_dsn
    execute(dsn, "CREATE SCHEMA elsewhere")
    execute(dsn, "ALTER TABLE comments SET SCHEMA elsewhere")
    (first,) = recent(settings)
    options = "-c search_path=elsewhere,public -c timezone=Asia/Tokyo -c datestyle=German"
    own = make_settings(POSTGRES_DSN=psycopg2.extensions.make_dsn(dsn, options=options))
    async with opened(own) as other:
        assert await roll_recent_index(other, TODAY) == ("comments_recent_20300503", [first.removeprefix("elsewhere.")])


async def test_the_old_index_and_writers_work_during_the_build_of_the_new_index(
    settings: Settings, database: Database
) -> None:
    (first,) = recent(settings)
    with holding(settings.postgres_dsn, WRITER):
        task = asyncio.create_task(roll_recent_index(database, TODAY))
        await until(lambda: blocked(settings.postgres_dsn))
        assert recent(settings)[first]
        assert (await take_in(settings, comment(1))).stored == 1
        assert (await take_in(settings, comment(1, "edited"))).updated == 1
        await analyse_all(settings)
        assert not task.done()
    await task
    assert recent(settings) == {"comments_recent_20300503": True}


async def test_an_interrupted_index_build_is_dropped_and_repeated(settings: Settings, database: Database) -> None:
    (first,) = recent(settings)
    with holding(settings.postgres_dsn, WRITER):
        task = asyncio.create_task(roll_recent_index(database, TODAY))
        await until(lambda: blocked(settings.postgres_dsn))
        terminate_blocked(settings.postgres_dsn)
        with pytest.raises(UNAVAILABLE_ERRORS):
            await task
    assert recent(settings) == {first: True, "comments_recent_20300503": False}
    assert await roll_recent_index(database, TODAY) == ("comments_recent_20300503", [first])
    assert recent(settings) == {"comments_recent_20300503": True}


async def test_an_invalid_index_of_an_earlier_day_is_dropped(settings: Settings, database: Database) -> None:
    await roll_recent_index(database, YESTERDAY)
    execute(
        settings.postgres_dsn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE '%502'"
    )
    await roll_recent_index(database, TODAY)
    assert recent(settings) == {"comments_recent_20300503": True}


async def test_two_concurrent_index_rolls_both_succeed(settings: Settings, database: Database) -> None:
    with holding(settings.postgres_dsn, WRITER):
        tasks = [asyncio.create_task(roll_recent_index(database, TODAY))]
        await until(lambda: blocked(settings.postgres_dsn) == 1)
        tasks.append(asyncio.create_task(roll_recent_index(database, TODAY)))
        await until(lambda: blocked(settings.postgres_dsn) == 2 or tasks[1].done())
        assert True in recent(settings).values()
    await asyncio.gather(*tasks)
    assert recent(settings) == {"comments_recent_20300503": True}


@pytest.mark.parametrize("ago", [timedelta(hours=1), timedelta(days=1), timedelta(days=7)], ids=["hour", "day", "week"])
async def test_the_query_for_recent_comments_uses_their_index(settings: Settings, ago: timedelta) -> None:
    stored_comments(settings.postgres_dsn, 50_000)
    execute(
        settings.postgres_dsn,
        "INSERT INTO comments (source, comment_id, post_id, author, text, posted_at) SELECT 'threads', 'new' || n,"
        " 'post', 'ana', 'text', now() - n * interval '7 days' / 2100 FROM generate_series(1, 2000) AS n",
    )
    execute(settings.postgres_dsn, "ANALYZE comments")
    (index,) = recent(settings)
    since = datetime.now(UTC) - ago
    async with open_client(settings) as client:
        response = await client.get("/comments", params={"since": since.isoformat()})
    assert response.json()["items"]

    # A session reports its statistics before it ends.
    await until(lambda: execute(settings.postgres_dsn, SESSIONS) == [(0,)])
    # The planner may also read the newest comment.
    assert reads(settings, index) >= 10
    assert reads(settings, "comments_time") <= 2


def reads(settings: Settings, index: str) -> int:
    """Returns the number of entries of an index that were read."""
    rows = execute(settings.postgres_dsn, "SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes")
    return int(dict(rows)[index])
