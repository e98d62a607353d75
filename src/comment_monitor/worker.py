"""What a worker process does with a batch: load, analyse, store; a comment that fails never stops others."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from comment_monitor import log, metrics, store
from comment_monitor.analysis import Analysis, Failure, analyse
from comment_monitor.config import Settings, require_dsn
from comment_monitor.db import Database, open_database
from comment_monitor.retry import RETRIED, with_retries
from comment_monitor.store import Loaded

logger = log.get(__name__)

CUT_SHORT: Final = "worker: every try ended before its result was stored"


class Delivery:
    """One message's way through this worker; its start is counted once, however often the database makes it repeat."""

    def __init__(self, redelivered: bool):
        self.redelivered = redelivered
        self.starts: int | None = None


class Worker:
    """Analyses batches for one process."""

    def __init__(self, settings: Settings, database: Database):
        self._settings = settings
        self._database = database

    async def analyse_batch(self, outbox_id: int, *, redelivered: bool) -> None:
        """Analyses one outbox row's comments; a row that is gone was done by someone else.

        Never raises: where PostgreSQL stays away, or the unforeseen happens, the row is as it was, and the sweep
        sends it again.
        """
        try:
            await with_retries(self._settings, partial(self._analyse, outbox_id, Delivery(redelivered)))
        except RETRIED as error:
            metrics.count_error("database-unavailable")
            logger.warning("batch_postponed", outbox_id=outbox_id, error=type(error).__name__)
        except Exception:
            metrics.count_error("internal")
            logger.exception("batch_failed", outbox_id=outbox_id)

    async def _analyse(self, outbox_id: int, delivery: Delivery) -> None:
        started = time.perf_counter()
        async with self._database.connection() as conn:
            batch = await store.load_batch(conn, outbox_id)
        if batch is None:
            return
        if (delivery.redelivered or batch.resends > 0) and await self._isolate(outbox_id, batch, delivery):
            return
        await self._store(outbox_id, batch, [(id_, revision, analyse(text)) for id_, revision, text in batch.comments])
        metrics.ANALYSIS_DURATION.observe(time.perf_counter() - started)

    async def _isolate(self, outbox_id: int, batch: Loaded, delivery: Delivery) -> bool:
        """Deals with a batch that keeps ending its worker: taken apart first, and the one at fault marked failed.

        A batch that was merely lost on its way is told apart by its count of starts, which is committed before
        the analysis begins.
        """
        if delivery.starts is None:
            async with self._database.connection() as conn:
                delivery.starts = await conn.value(store.COUNT_START, outbox_id)
        starts = delivery.starts
        if starts is None:
            return True
        if starts <= self._settings.max_retries:
            return False
        async with self._database.transaction() as conn:
            if len(batch.comments) > 1:
                await conn.fetch(store.SPLIT_BATCH, outbox_id)
            else:
                failed = [(id_, revision, Failure(reason=CUT_SHORT)) for id_, revision, _ in batch.comments]
                await store.save_results(conn, outbox_id, failed)
                metrics.ANALYSIS.labels(outcome="failed").inc(len(failed))
        logger.error("batch_isolated", outbox_id=outbox_id, comments=len(batch.comments), starts=starts)
        return True

    async def _store(self, outbox_id: int, batch: Loaded, results: list[tuple[int, int, Analysis | Failure]]) -> None:
        """Stores what succeeded; what failed stays in the outbox for a later try, or is marked failed at last."""
        failing = [id_ for id_, _, result in results if isinstance(result, Failure)]
        last_try = batch.failures >= self._settings.max_retries
        keep = failing and not last_try
        final = [one for one in results if not keep or isinstance(one[2], Analysis)]
        async with self._database.transaction() as conn:
            if keep:
                wait = self._settings.backoff_multiplier**batch.failures
                await conn.fetch(store.KEEP_FAILING, outbox_id, failing, wait)
            await store.save_results(conn, None if keep else outbox_id, final)
        metrics.ANALYSIS.labels(outcome="done").inc(len(results) - len(failing))
        metrics.ANALYSIS.labels(outcome="retried" if keep else "failed").inc(len(failing))
        if failing:
            metrics.count_error("analysis", len(failing))
            logger.warning("analysis_failed", outbox_id=outbox_id, comments=len(failing), tries=batch.failures + 1)


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[Worker]:
    """A worker with its connection."""
    require_dsn(settings)
    database = await open_database(
        settings.postgres_dsn, size=2, timeout=settings.processing_timeout, application="comment-monitor worker"
    )
    try:
        yield Worker(settings, database)
    finally:
        await database.close()
