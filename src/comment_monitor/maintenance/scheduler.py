"""The periodic jobs: sending unsent and lost outbox rows, and refreshing the state of schema, cache and backlog."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from comment_monitor.core.config import Settings
from comment_monitor.intake.dedup_cache import DedupCache
from comment_monitor.maintenance import system_gauges
from comment_monitor.messaging.analysis_rate import AnalysisRate, Outstanding, bounds
from comment_monitor.messaging.publisher import QUEUE_LIMIT, Publisher
from comment_monitor.observability import logs, metrics
from comment_monitor.storage import outbox
from comment_monitor.storage.postgres import (
    CONFLICT_ERRORS,
    REFUSED_ERRORS,
    SCHEMA_MISSING_ERRORS,
    UNAVAILABLE_ERRORS,
    Database,
    in_words,
)
from comment_monitor.storage.readiness import SCHEMA_INTERVAL, DatabaseState

logger = logs.get(__name__)

Job = Callable[[], Awaitable[None]]

SWEEP_BATCH: Final = 500
BACKLOG_INTERVAL: Final = 5.0
CACHE_INTERVAL: Final = 2.0
QUEUE_INTERVAL: Final = 1.0
# Seconds for which a sweep uses the last measurement of the queue.
QUEUE_FRESH: Final = 0.5
# Rows that are due within this number of seconds may be postponed: more than the time until the next measurement.
POSTPONE_AHEAD: Final = 5.0
INDEX_INTERVAL: Final = 600.0
CHECK_POLL: Final = 60.0
# Seconds after which a failed job runs again, even if its interval is longer; until then the job counts as failing.
AGAIN: Final = 5.0


class Scheduler:
    """The periodic jobs of one process."""

    def __init__(
        self, settings: Settings, database: Database, schema: DatabaseState, cache: DedupCache, publisher: Publisher
    ):
        self._settings = settings
        self._database = database
        self._schema = schema
        self._cache = cache
        self._publisher = publisher
        self._rate = AnalysisRate()
        self._queue_measured = 0.0
        # The reason of each failing job.
        self._failing: dict[str, str] = {}

    @property
    def trouble(self) -> str | None:
        """A failing job and the reason; None: no job fails."""
        return next((f"{name}: {why}" for name, why in self._failing.items()), None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the jobs until the end of the block."""
        jobs: list[tuple[float, Job]] = [
            (self._settings.sweep_interval, self.sweep),
            (QUEUE_INTERVAL, self.measure_queue),
            (BACKLOG_INTERVAL, self.measure_backlog),
            (SCHEMA_INTERVAL, self.refresh_schema),
            (CACHE_INTERVAL, self.probe_cache),
            (INDEX_INTERVAL, self.measure_recent_index),
        ]
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._every(interval, step, stop), name=step.__name__) for interval, step in jobs]
        if self._settings.check_interval:
            tasks.append(asyncio.create_task(self._check_in_intervals(stop), name="run_invariant_checks"))
        try:
            yield
        finally:
            # Cancelling alone is not enough: a client that is just connecting may swallow the cancellation.
            stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh_schema(self) -> None:
        """Refreshes the state of the database, the namespace of the cache, and the gauges of the schema."""
        await self._schema.refresh(self._database)
        self._cache.use_namespace(self._schema.namespace, self._schema.namespace_until)
        metrics.SCHEMA_USABLE.set(not self._schema.problem)
        if self._schema.at_head is None:
            metrics.SCHEMA_AT_HEAD.clear()
        else:
            metrics.SCHEMA_AT_HEAD.set(self._schema.at_head)

    async def probe_cache(self) -> None:
        """Probes Redis."""
        await self._cache.probe()

    async def measure_backlog(self) -> None:
        """Sets the gauges of the analysis backlog."""
        await system_gauges.measure_waiting(self._database)

    async def measure_recent_index(self) -> None:
        """Sets the gauge of the age of the recent index."""
        await system_gauges.measure_recent_index(self._database)

    async def run_invariant_checks(self) -> None:
        """Exports the last check of the invariants, and checks them if a check is due."""
        await system_gauges.run_invariant_checks(self._settings, self._database)

    async def _check_in_intervals(self, stop: asyncio.Event) -> None:
        # The database has the time of the last check. The random wait keeps pods that start together from asking
        # together.
        interval = min(self._settings.check_interval, CHECK_POLL)
        await _wait(stop, interval * random.random())  # noqa: S311 - no secret
        await self._every(interval, self.run_invariant_checks, stop)

    async def measure_queue(self) -> None:
        """Bounds the workers' queue by its work in seconds: rows that wait there longer would be sent again."""
        async with self._database.connection() as conn:
            [(rows, comments, inserted, updated, counted)] = await conn.fetch(outbox.OUTSTANDING, 2 * QUEUE_LIMIT)
            now = Outstanding(rows, comments, inserted, updated)
            self._queue_measured = time.monotonic()
            if counted:
                self._rate.observe(self._queue_measured, now)
            found = bounds(
                self._rate.per_second,
                now,
                resend_after=self._settings.resend_after,
                batch_size=self._settings.batch_size,
                most_rows=QUEUE_LIMIT,
                waiting=self._publisher.messages_waiting,
            )
            self._publisher.bound(found.rows, ids_per_message=found.rows_a_message)
            if found.postpone is not None:
                await conn.fetch(outbox.POSTPONE, POSTPONE_AHEAD, found.postpone)

    async def sweep(self) -> None:
        """Sends due outbox rows, the longest due first, while the publisher has free capacity."""
        if time.monotonic() - self._queue_measured > QUEUE_FRESH:
            await self.measure_queue()
        while capacity := self._publisher.free_capacity:
            limit = min(capacity, SWEEP_BATCH)
            async with self._database.transaction() as conn:
                rows = await conn.fetch(
                    outbox.SWEEP, limit, self._settings.resend_after, self._settings.backoff_multiplier
                )
            self._publisher.publish([row["id"] for row in rows])
            metrics.OUTBOX_RESENT.inc(sum(row["resends"] > 0 for row in rows))
            if len(rows) < limit:
                return

    async def _every(self, interval: float, step: Job, stop: asyncio.Event) -> None:
        while not stop.is_set():
            wait = min(interval, AGAIN)
            try:
                await step()
                self._failing.pop(step.__name__, None)
                wait = interval
            except (*UNAVAILABLE_ERRORS, *CONFLICT_ERRORS, *SCHEMA_MISSING_ERRORS) as error:
                self._failing[step.__name__] = in_words(error)
                self._log_unavailable(step, error)
            except Exception as error:
                self._failing[step.__name__] = type(error).__name__
                metrics.count_error("upkeep")
                logger.exception("upkeep_failed", step=step.__name__)
            await _wait(stop, wait)

    def _log_unavailable(self, step: Job, error: Exception) -> None:
        """Logs a failed job; an unavailable database only at DEBUG, because `refresh_schema` reports it.

        A missing permission on a single table is a warning, because no other job would report it.
        """
        name = type(error).__name__
        if isinstance(error, REFUSED_ERRORS) and not isinstance(error, CONFLICT_ERRORS) and not self._schema.problem:
            metrics.count_error("upkeep")
            logger.warning("upkeep_refused", step=step.__name__, error=name)
        else:
            logger.debug("upkeep_waits", step=step.__name__, error=name)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
