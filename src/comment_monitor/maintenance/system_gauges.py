"""Gauges of the system as a whole, which alerts go by: what waits, how old the recent index is, what is broken.

Any process tells them, all the same; who sums them up takes the largest.
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

# Seconds for one statement of a look, and between two slices.
CHECK_TIMEOUT: Final = 120.0
CHECK_PAUSE: Final = 0.02
NAMES: Final = [name_of(one) for one in INVARIANTS]
TIMEOUTS_TO_WAIT: Final = 10


async def measure_waiting(database: Database) -> None:
    """What is stored and not yet analysed."""
    try:
        async with database.connection() as conn:
            [(comments, oldest)] = await conn.fetch(WAITING)
    except Exception:
        # Scaling and alerts must not go by what was true before.
        metrics.BACKLOG.clear()
        metrics.OLDEST.clear()
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
        metrics.RECENT_INDEX.clear()


async def run_invariant_checks(settings: Settings, database: Database) -> None:
    """Tells what the last look at the invariants has found, and looks where that is an interval ago.

    Once for the whole installation: another process that looks meanwhile is left alone, and its findings are read.

    Args:
        settings: the settings.
        database: for the short statements.
    """
    if await _tell_of_last_check(settings, database):
        try:
            await _check_now(settings)
        except Exception as error:
            # The gauge of the last success stays as it is, and an alert goes by that.
            logger.warning("invariant_check_failed", error=type(error).__name__, reason=in_words(error))
            raise
        await _tell_of_last_check(settings, database)


async def _tell_of_last_check(settings: Settings, database: Database) -> bool:
    """Sets the gauges; True where a look is due."""
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
    """Looks at every invariant on a connection of its own; nothing where another process does."""
    own = await open_database(settings.postgres_dsn, size=1, timeout=CHECK_TIMEOUT, application="comment-monitor check")
    try:
        # The lock ends with the connection, also where this process is killed.
        async with own.connection() as conn:
            if not await conn.value(LOCK_CHECK, CHECK_LOCK):
                return
            # Another process may have looked while this one was about to.
            if not any(row["due"] for row in await conn.fetch(LAST_CHECKS, settings.check_interval, NAMES)):
                return
            oldest = TIMEOUTS_TO_WAIT * settings.processing_timeout
            findings = await check(conn, oldest=oldest, pause=CHECK_PAUSE)
            await conn.fetch(SAVE_CHECKS, [one.name for one in findings], [one.violations for one in findings])
    finally:
        await own.close()
