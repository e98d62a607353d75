"""What a worker process does with a batch: load, analyse, store; a comment that fails never stops others."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import structlog

from comment_monitor import log, metrics, origins, store
from comment_monitor.analysis import Analysis, Failure, analyse_all
from comment_monitor.config import Settings, require_dsn
from comment_monitor.db import Database, open_database
from comment_monitor.origins import Origins
from comment_monitor.retry import RETRIED, with_retries
from comment_monitor.store import Loaded, Results

logger = log.get(__name__)

# Comments whose results share a transaction, and comments that are analysed before the event loop has its turn.
COMMENTS_STORED_TOGETHER: Final = 125
COMMENTS_A_TURN: Final = 8
NOT_KNOWN: Final[Origins] = {}
TAKE_BACK_TIMEOUT: Final = 5
# Over COMMENT_PROCESSING_TIMEOUT, and well before the task's hard limit: a process that waits for the database until
# then is killed, and it looks as if a comment had done it.
MOST_OVER: Final = 5
CUT_SHORT: Final = "worker: every try ended before its result was stored"


class Delivery:
    """One message's way through this worker; its start is counted once, however often the database makes it repeat."""

    def __init__(self, redelivered: bool):
        self.redelivered = redelivered
        self.starts: int | None = None
        self._limit = asyncio.timeout(None)

    def until(self, deadline: float | None) -> asyncio.Timeout:
        """The time that there is for it, as a context."""
        self._limit = asyncio.timeout_at(deadline)
        return self._limit

    def let_store(self) -> None:
        """What is analysed is to be stored: there is some time for that, however long the analysis took."""
        if deadline := self._limit.when():
            self._limit.reschedule(max(deadline, asyncio.get_running_loop().time() + MOST_OVER))


class Worker:
    """Analyses batches for one process."""

    def __init__(self, settings: Settings, database: Database):
        self._settings = settings
        self._database = database

    async def analyse_batch(
        self, outbox_id: int, *, redelivered: bool, known: Origins = NOT_KNOWN, deadline: float | None = None
    ) -> None:
        """Analyses one outbox row's comments; a row that is gone was done by someone else.

        Never raises: where PostgreSQL stays away, or the unforeseen happens, the row is as it was, and the sweep
        sends it again. Lines bear the batch's id, and those of the requests behind it as far as they are known.
        """
        with structlog.contextvars.bound_contextvars(batch_id=outbox_id, **_named(known, [outbox_id])):
            await self._analyse_whatever_happens(outbox_id, redelivered, deadline)

    async def _analyse_whatever_happens(self, outbox_id: int, redelivered: bool, deadline: float | None) -> None:
        delivery = Delivery(redelivered)
        try:
            async with delivery.until(deadline):
                await with_retries(self._settings, partial(self._analyse, outbox_id, delivery))
        except RETRIED as error:
            metrics.count_error("database-unavailable")
            logger.warning("batch_postponed", error=type(error).__name__)
            await self._take_back_start(outbox_id, delivery)
        except Exception:
            metrics.count_error("internal")
            logger.exception("batch_failed")

    async def analyse_batches(
        self, outbox_ids: Sequence[int], *, redelivered: bool, known: Origins = NOT_KNOWN
    ) -> None:
        """Analyses outbox rows: several that come for the first time together, others one by one.

        Never raises, as `analyse_batch`. What there is no time for, as where the database keeps the first waiting, is
        left to the sweep.
        """
        rest = list(outbox_ids)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.processing_timeout + MOST_OVER
        # Rows that come again may have ended their process: one of them must not take the others with it.
        if len(rest) > 1 and not redelivered:
            try:
                async with asyncio.timeout_at(deadline):
                    rest = await self._analyse_together(rest, known)
            except Exception as error:  # noqa: BLE001 - whichever row it was, by itself it gets its own treatment
                logger.warning("batches_taken_apart", batches=len(outbox_ids), error=type(error).__name__)
        for number, outbox_id in enumerate(rest):
            if clock() >= deadline:
                metrics.count_error("database-unavailable")
                logger.warning("batches_postponed", batches=len(rest) - number)
                break
            await self.analyse_batch(outbox_id, redelivered=redelivered, known=known, deadline=deadline)

    async def _analyse_together(self, outbox_ids: Sequence[int], known: Origins) -> list[int]:
        """Returns the rows that have to be dealt with by themselves: sent before, or with a comment that failed.

        While PostgreSQL stores some, the next ones are analysed.
        """
        async with self._database.connection() as conn:
            loaded = await store.load_batches(conn, outbox_ids)
        rest = [one.outbox_id for one in loaded if one.resends > 0 or one.failures]
        saving: asyncio.Task[list[int]] | None = None
        try:
            for part in _parts([one for one in loaded if not (one.resends > 0 or one.failures)]):
                started = time.perf_counter()
                results = await _analyse_part(part)
                if saving:
                    rest += await saving
                saving = asyncio.create_task(self._save_part(part, results, started, known))
        except asyncio.CancelledError:
            # The time is up.
            if saving:
                saving.cancel()
            raise
        finally:
            if saving:
                rest += await saving
        return rest

    async def _save_part(self, part: Sequence[Loaded], results: Results, started: float, known: Origins) -> list[int]:
        """Stores the rows whose comments all succeeded; returns the others."""
        failed = {id_ for id_, _, result in results if isinstance(result, Failure)}
        clean = [one for one in part if failed.isdisjoint(id_ for id_, _, _ in one.comments)]
        if clean:
            wanted = {id_ for one in clean for id_, _, _ in one.comments}
            stored = [one for one in results if one[0] in wanted]
            async with self._database.transaction() as conn:
                saved = await store.save_results(conn, [one.outbox_id for one in clean], stored)
            # Who ends a row counts its results: another worker may have been at the same one.
            ours = {id_ for one in clean if one.outbox_id in saved.ended for id_, _, _ in one.comments}
            metrics.ANALYSIS.labels(outcome="done").inc(len(saved.comments & ours))
            for _ in clean:
                metrics.ANALYSIS_DURATION.observe(time.perf_counter() - started)
            ids = [one.outbox_id for one in clean]
            logger.debug("analysed", batch_ids=ids, comments=len(stored), **_named(known, ids))
        done = {one.outbox_id for one in clean}
        return [one.outbox_id for one in part if one.outbox_id not in done]

    async def _analyse(self, outbox_id: int, delivery: Delivery) -> None:
        started = time.perf_counter()
        async with self._database.connection() as conn:
            batches = await store.load_batches(conn, [outbox_id])
        if not batches:
            return
        [batch] = batches
        if (delivery.redelivered or batch.resends > 0) and await self._isolate(batch, delivery):
            return
        found = analyse_all([text for _, _, text in batch.comments])
        results = [(id_, revision, one) for (id_, revision, _), one in zip(batch.comments, found, strict=True)]
        delivery.let_store()
        await self._store(batch, results)
        metrics.ANALYSIS_DURATION.observe(time.perf_counter() - started)

    async def _isolate(self, batch: Loaded, delivery: Delivery) -> bool:
        """Deals with a batch that keeps ending its worker: taken apart first, and the one at fault marked failed.

        A batch that was merely lost on its way is told apart by its count of starts, which is committed before
        the analysis begins.
        """
        if delivery.starts is None:
            async with self._database.connection() as conn:
                delivery.starts = await conn.value(store.COUNT_START, batch.outbox_id)
        starts = delivery.starts
        if starts is None:
            return True
        if starts <= self._settings.max_retries:
            return False
        saved = None
        async with self._database.transaction() as conn:
            if len(batch.comments) > 1:
                await conn.fetch(store.SPLIT_BATCH, batch.outbox_id)
            else:
                failed = [(id_, revision, Failure(reason=CUT_SHORT)) for id_, revision, _ in batch.comments]
                saved = await store.save_results(conn, [batch.outbox_id], failed)
        if saved and saved.ended:
            metrics.ANALYSIS.labels(outcome="failed").inc(len(saved.comments))
        logger.error("batch_isolated", comments=len(batch.comments), starts=starts)
        return True

    async def _take_back_start(self, outbox_id: int, delivery: Delivery) -> None:
        """A try that the database ended says nothing of a comment that ends its worker.

        Else a long lock, or a missing privilege, would have good comments marked failed. Best effort: where the
        database is away, no start is counted.
        """
        if delivery.starts is None:
            return
        with suppress(Exception):
            async with asyncio.timeout(TAKE_BACK_TIMEOUT), self._database.connection() as conn:
                await conn.fetch(store.TAKE_BACK_START, outbox_id)

    async def _store(self, batch: Loaded, results: list[tuple[int, int, Analysis | Failure]]) -> None:
        """Stores what succeeded; what failed stays in the outbox for a later try, or is marked failed at last."""
        failing = {id_ for id_, _, result in results if isinstance(result, Failure)}
        last_try = batch.failures >= self._settings.max_retries
        keep = failing and not last_try
        final = [one for one in results if not keep or isinstance(one[2], Analysis)]
        async with self._database.transaction() as conn:
            kept = None
            if keep:
                wait = self._settings.backoff_multiplier**batch.failures
                kept = await conn.value(store.KEEP_FAILING, batch.outbox_id, sorted(failing), wait, batch.failures)
            saved = await store.save_results(conn, [] if keep else [batch.outbox_id], final)
        if kept is None and not saved.ended:
            # Another worker was at the same row, and has counted its results.
            return
        metrics.ANALYSIS.labels(outcome="done").inc(len(saved.comments - failing))
        metrics.ANALYSIS.labels(outcome="failed").inc(len(saved.comments & failing))
        if failing:
            metrics.ANALYSIS.labels(outcome="retried").inc(len(failing) if keep else 0)
            metrics.count_error("analysis", len(failing))
            logger.warning("analysis_failed", comments=len(failing), tries=batch.failures + 1)
        logger.debug("analysed", comments=len(results) - len(failing))


def _named(known: Origins, batches: Sequence[int]) -> dict[str, list[str]]:
    """The requests behind batches, for a line; what was sent again does not tell."""
    found = origins.request_ids(known, batches)[: origins.MOST] if known else []
    return {"request_ids": found} if found else {}


def _parts(batches: Sequence[Loaded]) -> Iterator[list[Loaded]]:
    """So many batches at a time as make a transaction."""
    part: list[Loaded] = []
    for batch in batches:
        part.append(batch)
        if sum(len(one.comments) for one in part) >= COMMENTS_STORED_TOGETHER:
            yield part
            part = []
    if part:
        yield part


async def _analyse_part(part: Sequence[Loaded]) -> Results:
    """The result of each comment once: one that was edited meanwhile stands in two batches, with the text of now."""
    comments = list({id_: (id_, revision, text) for one in part for id_, revision, text in one.comments}.values())
    results: list[tuple[int, int, Analysis | Failure]] = []
    found = analyse_all([text for _, _, text in comments])
    for number, ((id_, revision, _), one) in enumerate(zip(comments, found, strict=True)):
        results.append((id_, revision, one))
        if number % COMMENTS_A_TURN == 0:
            # The transaction of the part before goes on meanwhile.
            await asyncio.sleep(0)
    return results


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
