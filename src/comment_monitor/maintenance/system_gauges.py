"""Gauges of the whole system for alerts: the analysis backlog, the age of the recent index, violated invariants.

Every process exports the same values, so aggregations over processes take the maximum.
"""

from datetime import UTC, datetime
from typing import Final

from comment_monitor.core.config import Settings
from comment_monitor.observability import logs, metrics
from comment_monitor.storage import retention
from comment_monitor.storage.backlog import WAITING
from comment_monitor.storage.invariants import (
    ADD_CHECKS,
    CHECK_LOCK,
    INVARIANTS,
    LAST_CHECKS,
    LOCK_CHECK,
    SAVE_CHECKS,
    check,
    name_of,
)
from comment_monitor.storage.postgres import Database, in_words, open_database

logger = logs.get(__name__)

# Seconds for one statement of a check, and between two slices.
CHECK_TIMEOUT: Final = 120.0
CHECK_PAUSE: Final = 0.02
NAMES: Final = [name_of(invariant) for invariant in INVARIANTS]
TIMEOUTS_TO_WAIT: Final = 10


async def measure_waiting(database: Database) -> None:
    """Sets the gauges of the comments that are stored and not yet analysed."""
    try:
        async with database.connection() as conn:
            [(comments, oldest)] = await conn.fetch(WAITING)
    except Exception:
        # Scaling and alerts must not use outdated values.
        metrics.BACKLOG.clear()
        metrics.OLDEST.clear()
        raise
    metrics.BACKLOG.set(comments)
    metrics.OLDEST.set(max(oldest, 0))


async def measure_recent_index(database: Database) -> None:
    """Sets the gauge of the age at which the recent index begins: the weekly cleanup resets it to seven days."""
    async with database.connection() as conn:
        begins = await retention.recent_index_begins(conn)
    if begins:
        metrics.RECENT_INDEX.set(
            (datetime.now(UTC) - datetime.combine(begins, datetime.min.time(), UTC)).total_seconds()
        )
    else:
        metrics.RECENT_INDEX.clear()


async def run_invariant_checks(settings: Settings, database: Database) -> None:
    """Exports the results of the last invariant check, and checks again if that was an interval ago.

    One process checks for the whole installation: if another process is checking, this one only reads its results.

    Args:
        settings: the settings.
        database: the pool for the short statements; the check opens its own.
    """
    if await _export_last_check(settings, database):
        try:
            await _check_now(settings)
        except Exception as error:
            # The gauge of the last completed check keeps its value, and an alert uses it.
            logger.warning("invariant_check_failed", error=type(error).__name__, reason=in_words(error))
            raise
        await _export_last_check(settings, database)


async def _export_last_check(settings: Settings, database: Database) -> bool:
    """Sets the gauges from the last check; returns whether a check is due."""
    async with database.connection() as conn:
        rows = await conn.fetch(LAST_CHECKS, settings.check_interval, NAMES)
        if len(rows) < len(NAMES):
            await conn.fetch(ADD_CHECKS, NAMES)
            rows = await conn.fetch(LAST_CHECKS, settings.check_interval, NAMES)
    for row in rows:
        if row["violations"] is not None:
            metrics.BROKEN.labels(invariant=row["name"]).set(row["violations"])
    metrics.CHECKED.set(min(row["checked_at"] for row in rows))
    metrics.CHECK_INTERVAL.set(settings.check_interval)
    return any(row["due"] for row in rows)


async def _check_now(settings: Settings) -> None:
    """Checks every invariant on a separate connection; does nothing if another process is checking."""
    own = await open_database(settings.postgres_dsn, size=1, timeout=CHECK_TIMEOUT, application="comment-monitor check")
    try:
        # The lock ends with the connection, even if this process is killed.
        async with own.connection() as conn:
            if not await conn.value(LOCK_CHECK, CHECK_LOCK):
                return
            # Another process may have finished a check since this process read that one is due.
            if not any(row["due"] for row in await conn.fetch(LAST_CHECKS, settings.check_interval, NAMES)):
                return
            oldest = TIMEOUTS_TO_WAIT * settings.processing_timeout
            results = await check(conn, oldest=oldest, pause=CHECK_PAUSE)
            names, violations = [result.name for result in results], [result.violations for result in results]
            await conn.fetch(SAVE_CHECKS, names, violations)
    finally:
        await own.close()
