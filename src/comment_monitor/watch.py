"""Gauges of the system as a whole, which alerts go by: what waits, how old the recent index is, what is broken.

Any process tells them, all the same; who sums them up takes the largest.
"""

from datetime import UTC, datetime
from typing import Final

from comment_monitor import metrics, retention
from comment_monitor.config import Settings
from comment_monitor.db import Database, Query, open_database
from comment_monitor.invariants import check

# Comments whose analysis is outstanding, and seconds since the first of them began to wait. An edit that waits beside
# its first text counts twice: two analyses wait.
WAITING: Final = Query(
    "analysis_backlog",
    """
    SELECT coalesce(sum(cardinality(comment_ids)), 0) AS comments,
        coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest
    FROM analysis_outbox
    """,
)
# One process at a time: on a large table a look takes a while.
CHECK_LOCK: Final = 0x636865636B
LOCK_CHECK: Final = Query("lock_check", "SELECT pg_try_advisory_xact_lock($1)")
CHECK_TIMEOUT: Final = 600.0
TIMEOUTS_TO_WAIT: Final = 10


async def measure_waiting(database: Database) -> None:
    """What is stored and not yet analysed."""
    try:
        async with database.connection() as conn:
            [(comments, oldest)] = await conn.fetch(WAITING)
    except Exception:
        # Scaling and alerts must not go by what was true before.
        metrics.BACKLOG.forget()
        metrics.OLDEST.forget()
        raise
    metrics.BACKLOG.set(comments)
    metrics.OLDEST.set(max(oldest, 0))


async def measure_recent_index(database: Database) -> None:
    """How far back the index of recent comments begins: the weekly cleanup sets it to seven days."""
    async with database.connection() as conn:
        begins = await retention.recent_index_begins(conn)
    if begins:
        metrics.RECENT_INDEX.set(
            (datetime.now(UTC) - datetime.combine(begins, datetime.min.time(), UTC)).total_seconds()
        )
    else:
        metrics.RECENT_INDEX.forget()


async def check_promises(settings: Settings) -> None:
    """Looks at every invariant, on a connection of its own; nothing where another process is at it."""
    database = await open_database(
        settings.postgres_dsn, size=1, timeout=CHECK_TIMEOUT, application="comment-monitor check"
    )
    try:
        async with database.snapshot() as conn:
            if not await conn.value(LOCK_CHECK, CHECK_LOCK):
                return
            findings = await check(conn, oldest=TIMEOUTS_TO_WAIT * settings.processing_timeout)
    finally:
        await database.close()
    for finding in findings:
        metrics.BROKEN.labels(invariant=finding.name).set(finding.violations)
