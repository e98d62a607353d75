"""Deletes old comments and moves the index of recent comments forward, both during live traffic."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

import asyncpg

from comment_monitor.core.errors import ConfigurationError
from comment_monitor.storage import cache_namespace
from comment_monitor.storage.postgres import CONFLICT_ERRORS, Connection, Database, Query

RECENT_DAYS: Final = 7
BATCH: Final = 1000
# Seconds between two batches, so that deletion leaves disk time for ingestion.
PAUSE: Final = 0.02
MAX_TRIES: Final = 6
# Seconds after a change of the prefix in Redis until no process uses the previous prefix.
SETTLED: Final = cache_namespace.LEASE
INDEX_PREFIX: Final = "comments_recent_"

# The number of comments stored before $1, and the time of the first of them.
COUNT_OLD: Final = Query("count_old_comments", "SELECT count(*), min(created_at) FROM comments WHERE created_at < $1")

# The highest id of a comment stored before $1.
LAST_OLD: Final = Query("last_old_comment", "SELECT max(id) FROM comments WHERE created_at < $1")

# Deletes the oldest comments stored before $1, at most $2. Ids grow with time, so this walks the primary key from its
# low end up to $3. Rows locked by a writer are left for the next batch, and only the deleted rows are locked. Results
# and versions are deleted with them (cascade). An outbox row of deleted comments only ends when a worker takes it.
DELETE_OLD: Final = Query(
    "delete_old_comments",
    """
    WITH first AS (
        SELECT id FROM comments WHERE id <= $3 AND created_at < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM comments WHERE id IN (SELECT id FROM first) RETURNING 1
    )
    SELECT count(*) FROM gone
    """,
)

# The existing indexes of recent comments, and whether each is valid (an interrupted build leaves an invalid index). An
# index counts only if name, columns and predicate are as this program creates them: a name alone proves nothing.
RECENT_INDEXES: Final = Query(
    "recent_indexes",
    r"""
    SELECT i.relname AS name, x.indisvalid AS valid FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indrelid = 'comments'::regclass AND i.relname ~ '^comments_recent_[0-9]{8}$'
        AND regexp_replace(pg_get_indexdef(i.oid), ' ON .* USING ', ' ')
            = 'CREATE INDEX ' || i.relname || ' btree (occurred_at DESC, id DESC) WHERE (occurred_at >= '''
                || regexp_replace(i.relname, '^.*_(....)(..)(..)$', '\1-\2-\3')
                || ' 00:00:00+00''::timestamp with time zone)'
    ORDER BY 1
    """,
)


# Key of the advisory lock: two concurrent builds of the same index would deadlock.
ROLL_LOCK: Final = 0x726563656E74
LOCK_ROLL: Final = Query("lock_recent_index", "SELECT pg_try_advisory_lock($1)")
UNLOCK_ROLL: Final = Query("unlock_recent_index", "SELECT pg_advisory_unlock($1)")


class Old(NamedTuple):
    """The number of comments that a deletion would remove, and the time of the oldest."""

    amount: int
    oldest: datetime | None


async def count_old(database: Database, before: datetime) -> Old:
    """Counts the comments stored before a time."""
    async with database.connection() as conn:
        (row,) = await conn.fetch(COUNT_OLD, before)
    return Old(*row)


async def delete_old(database: Database, before: datetime) -> AsyncIterator[int]:
    """Deletes comments stored before a time in small transactions; yields the number that each deleted."""
    async with database.connection() as conn:
        last = await conn.value(LAST_OLD, before)
    if last is not None:
        # Redis may have an entry for a deleted comment, and would report it as a duplicate when it is sent again. So
        # all entries are invalid before the first comment is deleted, however this run ends.
        await _disown(database)
        await asyncio.sleep(SETTLED)
    try:
        while last is not None and (removed := await _delete_batch(database, before, last)):
            yield removed
            await asyncio.sleep(PAUSE)
    finally:
        # Redis may have an entry for a comment that was sent again during the run, before its deletion. Needed even if
        # this run deleted nothing, because the previous run may have been killed.
        await _disown(database)


async def _disown(database: Database) -> None:
    """Changes the prefix in Redis, or waits until another process has changed it."""
    async with database.connection() as conn:
        before = await cache_namespace.current(conn)
        while await cache_namespace.current(conn) == before:
            if not await cache_namespace.change(conn):
                await asyncio.sleep(PAUSE)


async def _delete_batch(database: Database, before: datetime, last: int) -> int:
    for tries in itertools.count(1):
        try:
            async with database.transaction() as conn:
                removed: int = await conn.value(DELETE_OLD, before, BATCH, last)
                return removed
        except CONFLICT_ERRORS:
            # A worker is storing the result of a comment that is to be deleted.
            if tries == MAX_TRIES:
                raise
            await asyncio.sleep(PAUSE * 2**tries * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
    raise AssertionError("the loop returns or raises")


def recent_index_name(since: date) -> str:
    """Returns the name of the partial index whose predicate starts at this day."""
    return f"{INDEX_PREFIX}{since:%Y%m%d}"


async def recent_index_begins(conn: Connection) -> date | None:
    """Returns the first day that the index of recent comments covers; None where there is no such index."""
    names = [row["name"] for row in await conn.fetch(RECENT_INDEXES) if row["valid"]]
    return datetime.strptime(max(names), f"{INDEX_PREFIX}%Y%m%d").replace(tzinfo=UTC).date() if names else None


async def roll_recent_index(database: Database, today: date | None = None) -> tuple[str, list[str]]:
    """Rebuilds the index of recent comments to start seven days ago; returns its name and the replaced indexes.

    It builds the new index first and drops the old one last, both CONCURRENTLY, so queries always have an index and
    writers never wait. After an interruption, a repeat completes it: an invalid index is dropped and built again. If
    another process is doing this, nothing is done.
    """
    since = (today or datetime.now(UTC).date()) - timedelta(days=RECENT_DAYS)
    name = recent_index_name(since)
    async with database.connection() as conn:
        # Does not wait for the lock: a waiting session would block the other session's CREATE INDEX CONCURRENTLY.
        if not await conn.value(LOCK_ROLL, ROLL_LOCK):
            return name, []
        await conn.raw.execute("SET statement_timeout = 0")
        try:
            return name, await _roll(conn, name, since)
        finally:
            await conn.raw.execute("RESET statement_timeout")
            await conn.value(UNLOCK_ROLL, ROLL_LOCK)


async def _roll(conn: Connection, name: str, since: date) -> list[str]:
    existing = {row["name"]: row["valid"] for row in await conn.fetch(RECENT_INDEXES)}
    if existing.get(name) is False:
        await conn.raw.execute(f"DROP INDEX CONCURRENTLY {name}")
    if not existing.get(name):
        try:
            await conn.raw.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON comments (occurred_at DESC, id DESC) "
                f"WHERE occurred_at >= '{since.isoformat()} 00:00:00+00'"
            )
        except asyncpg.DuplicateTableError:
            raise ConfigurationError(f"{name} exists, but is not the index of recent comments: rename it") from None
    replaced = [index for index in existing if index != name]
    for index in replaced:
        await conn.raw.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
    return replaced
