"""Removal of old comments, and the index of recent ones kept recent: both beside live traffic."""

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
# Between two batches, so that removal never takes the disk from ingestion.
PAUSE: Final = 0.02
MAX_TRIES: Final = 6
# So long after a change of the prefix in Redis no process goes by the one before.
SETTLED: Final = cache_namespace.LEASE
INDEX_PREFIX: Final = "comments_recent_"

# How many comments were stored before $1, and when the first of them was.
COUNT_OLD: Final = Query("count_old_comments", "SELECT count(*), min(created_at) FROM comments WHERE created_at < $1")

# The highest id of a comment stored before $1.
LAST_OLD: Final = Query("last_old_comment", "SELECT max(id) FROM comments WHERE created_at < $1")

# Removes the oldest comments stored before $1, at most $2. Ids grow with time, so this walks the primary key from its
# low end up to $3; rows that someone is writing to wait for the next batch, and no other row is locked. Results and
# versions go with them (cascade), and an outbox row that names only comments that are gone ends when a worker takes it.
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

# The indexes of recent comments that there are, with whether each is valid (a build that was cut short is not). An
# index is this program's if it is just what this program makes, by name, columns and predicate: a name proves nothing.
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


# One at a time: two builds of the same index would deadlock.
ROLL_LOCK: Final = 0x726563656E74
LOCK_ROLL: Final = Query("lock_recent_index", "SELECT pg_try_advisory_lock($1)")
UNLOCK_ROLL: Final = Query("unlock_recent_index", "SELECT pg_advisory_unlock($1)")


class Old(NamedTuple):
    """What a removal would take away."""

    amount: int
    oldest: datetime | None


async def count_old(database: Database, before: datetime) -> Old:
    """Counts the comments stored before a moment."""
    async with database.connection() as conn:
        (row,) = await conn.fetch(COUNT_OLD, before)
    return Old(*row)


async def delete_old(database: Database, before: datetime) -> AsyncIterator[int]:
    """Removes comments stored before a moment, a small transaction at a time; yields how many each took."""
    async with database.connection() as conn:
        last = await conn.value(LAST_OLD, before)
    if last is not None:
        # Redis may remember one that is gone, and call it a duplicate when it is sent again: no process goes by what
        # it remembers now once the first is gone, however this run ends.
        await _disown(database)
        await asyncio.sleep(SETTLED)
    try:
        while last is not None and (removed := await _delete_batch(database, before, last)):
            yield removed
            await asyncio.sleep(PAUSE)
    finally:
        # It may remember one that came again during the run, before it was removed. Also where nothing was removed:
        # the run before this one may have been killed.
        await _disown(database)


async def _disown(database: Database) -> None:
    """Waits for a change of the prefix in Redis, its own or another's."""
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
            # With a worker that stores the result of a comment to be removed.
            if tries == MAX_TRIES:
                raise
            await asyncio.sleep(PAUSE * 2**tries * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
    raise AssertionError("the loop returns or raises")


def recent_index_name(since: date) -> str:
    """The name of the partial index whose predicate starts at this day."""
    return f"{INDEX_PREFIX}{since:%Y%m%d}"


async def recent_index_begins(conn: Connection) -> date | None:
    """The first day that the index of recent comments holds; None where there is no such index."""
    names = [row["name"] for row in await conn.fetch(RECENT_INDEXES) if row["valid"]]
    return datetime.strptime(max(names), f"{INDEX_PREFIX}%Y%m%d").replace(tzinfo=UTC).date() if names else None


async def roll_recent_index(database: Database, today: date | None = None) -> tuple[str, list[str]]:
    """Makes the index of recent comments start seven days ago; returns its name and those it replaced.

    Builds the new one first and drops the old one last, both CONCURRENTLY: queries always have one, writers never
    wait. Cut short at any point, a repeat completes it: an invalid index is dropped and built again. Where another
    process is at it, nothing is done.
    """
    since = (today or datetime.now(UTC).date()) - timedelta(days=RECENT_DAYS)
    name = recent_index_name(since)
    async with database.connection() as conn:
        # Not waited for: a session that waits would hold up the other one's CREATE INDEX CONCURRENTLY.
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
            raise ConfigurationError(f"{name} is there and is not the index of recent comments: rename it") from None
    replaced = [one for one in existing if one != name]
    for one in replaced:
        await conn.raw.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {one}")
    return replaced
