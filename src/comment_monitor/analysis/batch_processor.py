"""Processes batches in a worker: loads and analyses them, and stores results; a failed comment never stops others."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import takewhile
from typing import Final, NamedTuple

import structlog

from comment_monitor.analysis import task_attempt as times
from comment_monitor.analysis.engine import VERSION, analyse_all
from comment_monitor.analysis.task_attempt import TaskAttempt
from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.core.model import Analysis, Failure
from comment_monitor.observability import correlation, logs, metrics
from comment_monitor.observability.correlation import RequestContexts
from comment_monitor.storage import analyses, outbox
from comment_monitor.storage.outbox import Loaded
from comment_monitor.storage.postgres import Connection, Database, Query, open_database
from comment_monitor.storage.retry import RETRIED, with_retries

logger = logs.get(__name__)

# A task is processed in parts, and the results of a part are stored in one transaction. A part takes whole rows until
# it has this number of comments or more (fewer in a slow process), and its analysis ends once this number of seconds
# has passed.
COMMENTS_STORED_TOGETHER: Final = 125
SECONDS_STORED_TOGETHER: Final = 1.0
# The number of comments that a part takes before the process has measured its pace: the size of the largest row.
COMMENTS_AT_FIRST: Final = 25
# Comments that are analysed before control returns to the event loop.
YIELD_EVERY: Final = 8
# A row's `starts` count the analyses of it that began and did not come to an end. Only a row that may have killed a
# worker is counted: its message was redelivered, it was sent again, or it has a count already.
# This is the least number of starts after which a row may be split, or its only comment marked as failed.
# (The new rows of a split begin with one start each, and each must be analysed separately at least once.)
LEAST_STARTS: Final = 2
NOT_KNOWN: Final[RequestContexts] = {}
CUT_SHORT: Final = "worker: every try ended before its result was stored"

Result = tuple[int, int, Analysis | Failure]


class Piece(NamedTuple):
    """A row, or a part of its comments, and the results; if time was short, only the first comments have a result."""

    row: Loaded
    results: list[Result]

    @property
    def left(self) -> Loaded | None:
        """The row with only the comments that have no result; None if all have one."""
        comments = self.row.comments[len(self.results) :]
        return self.row._replace(comments=comments) if comments else None

    @property
    def whole(self) -> bool:
        """Whether these results complete the row."""
        return not self.row.more and self.left is None

    @property
    def failing(self) -> list[int]:
        """The ids of the comments on which an analyser failed."""
        return [id_ for id_, _, result in self.results if isinstance(result, Failure)]


class BatchProcessor:
    """Analyses batches for one process."""

    def __init__(self, settings: Settings, database: Database):
        self._settings = settings
        self._database = database
        # Seconds per comment, a running average of measurements; None: not measured yet.
        self._pace: float | None = None

    def attempt(self, *, redelivered: bool) -> TaskAttempt:
        """Returns the time limits and the state of a task that begins now."""
        return TaskAttempt(redelivered=redelivered, text_seconds=self._settings.processing_timeout)

    async def analyse_batches(
        self, outbox_ids: Sequence[int], *, redelivered: bool, known: RequestContexts = NOT_KNOWN
    ) -> None:
        """Analyses together the rows that are not suspected of killing a worker, and each suspect row alone.

        Never raises, like `analyse_batch`. Gives back the rows for which the time was too short.
        """
        attempt = self.attempt(redelivered=redelivered)
        rest = list(outbox_ids)
        failed = False
        # If the message was redelivered, one of its rows may have killed a worker. It must not affect the others.
        if len(rest) > 1 and not redelivered:
            try:
                async with attempt.timeout():
                    rest = await self._analyse_group(rest, attempt, known)
            except Exception as error:  # noqa: BLE001 - each row is then processed separately
                failed = True
                logger.warning("batches_split", batches=len(outbox_ids), error=type(error).__name__)
        for number, outbox_id in enumerate(rest):
            # If the group failed, the first row is processed even if `attempt.is_over`, but not after `attempt.ends`.
            # Otherwise all rows would be given back, form the same group again, and fail again.
            over = attempt.group_is_over if number else attempt.is_over and not failed
            if over or time.monotonic() >= attempt.ends:
                attempt.unfinished.update(rest[number:])
                break
            await self.analyse_batch(outbox_id, redelivered=redelivered, known=known, attempt=attempt)
        await self._give_back(attempt)

    async def analyse_batch(
        self,
        outbox_id: int,
        *,
        redelivered: bool,
        known: RequestContexts = NOT_KNOWN,
        attempt: TaskAttempt | None = None,
    ) -> None:
        """Analyses one outbox row's comments; ignores a row that no longer exists, which another worker has finished.

        Never raises: if PostgreSQL stays unavailable, or after an unexpected error, the row keeps the comments that
        have no stored result, and the sweep sends it again. After an unexpected error it also keeps its counted start.
        Log lines contain the batch's id and the known ids of its requests. Without an `attempt`, the row is a task of
        its own.
        """
        task = attempt or self.attempt(redelivered=redelivered)
        with structlog.contextvars.bound_contextvars(batch_id=outbox_id, **_named(known, [outbox_id])):
            await self._analyse_without_raising(outbox_id, task, known)
            if attempt is None:
                await self._give_back(task)

    async def _analyse_without_raising(self, outbox_id: int, attempt: TaskAttempt, known: RequestContexts) -> None:
        try:
            async with attempt.timeout():
                await with_retries(self._settings, partial(self._analyse_alone, outbox_id, attempt, known))
        except RETRIED as error:
            metrics.count_error("database-unavailable")
            logger.warning("batch_postponed", error=type(error).__name__)
            await self._take_back_start(outbox_id, attempt)
        except Exception:
            metrics.count_error("internal")
            logger.exception("batch_failed")

    async def _analyse_group(
        self, outbox_ids: Sequence[int], attempt: TaskAttempt, known: RequestContexts
    ) -> list[int]:
        """Analyses the rows without an unfinished start together; returns the others, to be processed separately."""
        async with self._database.connection() as conn:
            loaded = await outbox.load_batches(conn, outbox_ids)
            group = [row for row in loaded if row.starts == 0]
            # If a row was sent again, its message was most likely delayed or lost, but the row may also kill workers.
            # So its start is counted: after a kill by the time limit, the broker does not redeliver the message, and
            # only the count shows the kill.
            await self._count_starts(conn, [row for row in group if row.resends > 0], attempt)
        await self._work_through(group, attempt, known)
        return [row.outbox_id for row in loaded if row.starts > 0]

    async def _analyse_alone(self, outbox_id: int, attempt: TaskAttempt, known: RequestContexts) -> None:
        async with self._database.connection() as conn:
            batches = await outbox.load_batches(conn, [outbox_id])
        for batch in batches:
            suspect = attempt.redelivered or batch.resends > 0 or batch.starts > 0
            if not (suspect and await self._isolate(batch, attempt)):
                await self._work_through([batch], attempt, known)

    async def _work_through(self, rows: Sequence[Loaded], attempt: TaskAttempt, known: RequestContexts) -> None:
        """Analyses and stores rows while there is time; analyses the next rows while PostgreSQL stores the previous.

        Begins the analysis of at least one comment, however little time is left; the comment has no result if the
        analysis is interrupted at `attempt.ends`.
        """
        waiting = deque(rows)
        saving: asyncio.Task[None] | None = None
        try:
            while waiting:
                started = time.perf_counter()
                pieces = await self._analyse_part(_take(waiting, self._comments_together), attempt)
                attempt.let_store()
                if saving:
                    # `saving` is cleared before the await: if the task fails, the `finally` below must not await it
                    # again and raise the same exception.
                    previous, saving = saving, None
                    await previous
                saving = asyncio.create_task(self._save(pieces, started, known))
                left = [row for piece in pieces if (row := piece.left)]
                waiting.extendleft(reversed(left))
                if attempt.group_is_over or (left and not any(piece.results for piece in pieces)):
                    break
        except asyncio.CancelledError:
            # The task's timeout has expired.
            if saving:
                saving.cancel()
            raise
        finally:
            if saving:
                await saving
        attempt.unfinished.update(row.outbox_id for row in waiting)

    @property
    def _comments_together(self) -> int:
        """The number of comments for the next part: those that can probably be analysed in SECONDS_STORED_TOGETHER."""
        if self._pace is None:
            return COMMENTS_AT_FIRST
        return max(1, min(COMMENTS_STORED_TOGETHER, int(SECONDS_STORED_TOGETHER / max(self._pace, 1e-6))))

    async def _analyse_part(self, part: Sequence[Loaded], attempt: TaskAttempt) -> list[Piece]:
        """Returns the results of the part's comments, as many as the time allows; analyses each comment once.

        (A comment that was edited since its batch was queued is in two rows, both with the current text.)
        """
        comments = list({comment[0]: comment for row in part for comment in row.comments}.values())
        results: dict[int, Result] = {}
        began = time.monotonic()
        found = analyse_all([text for _, _, text in comments], attempt.limit)
        for number, ((id_, revision, _), result) in enumerate(zip(comments, found, strict=False)):
            results[id_] = (id_, revision, result)
            if time.monotonic() - began >= SECONDS_STORED_TOGETHER or attempt.group_is_over:
                break
            if number % YIELD_EVERY == 0:
                # Lets the transaction of the previous part continue.
                await asyncio.sleep(0)
        if results:
            pace = (time.monotonic() - began) / len(results)
            self._pace = pace if self._pace is None else (self._pace + pace) / 2
        # A piece ends at its first comment without a result, even if a later comment has one from another row.
        return [
            Piece(row, [results[id_] for id_, _, _ in takewhile(lambda comment: comment[0] in results, row.comments)])
            for row in part
        ]

    async def _save(self, pieces: Sequence[Piece], started: float, known: RequestContexts) -> None:
        """Stores results, and deletes or keeps their outbox rows, in one transaction."""
        pieces = [piece for piece in pieces if piece.results or piece.whole]
        if not pieces:
            return
        ended: list[int] = []
        final: dict[int, Result] = {}
        for piece in pieces:
            keeps = piece.failing and not self._is_last_try(piece.row)
            if piece.whole and not keeps:
                ended.append(piece.row.outbox_id)
            final |= {result[0]: result for result in piece.results if not (keeps and isinstance(result[2], Failure))}
        async with self._database.transaction() as conn:
            saved = await analyses.save_results(conn, ended, list(final.values()), VERSION)
            ours = [piece for piece in pieces if piece.row.outbox_id in saved.ended]
            kept = [piece for piece in pieces if piece.row.outbox_id not in ended]
            ours += [piece for piece in kept if await self._keep_row(conn, piece)]
        self._count(ours, saved.comments, started)
        ids = [piece.row.outbox_id for piece in pieces]
        logger.debug("analysed", batch_ids=ids, comments=len(final), **_named(known, ids))

    async def _keep_row(self, conn: Connection, piece: Piece) -> bool:
        """Keeps a row with its unfinished comments: the failed ones, for a later try, and those not yet analysed.

        If the row has both, the failed comments move to a new row.

        Returns False if another worker has processed the same row and counted its results.
        """
        row = piece.row
        failing = [] if self._is_last_try(row) else piece.failing
        kept = None
        if failing:
            wait = self._settings.backoff_multiplier**row.failures
            query = outbox.KEEP_FAILING if piece.whole else outbox.SPLIT_FAILING
            kept = await conn.value(query, row.outbox_id, sorted(failing), wait, row.failures)
        done = [id_ for id_, _, _ in piece.results if id_ not in failing]
        if not piece.whole and done:
            kept = await conn.value(outbox.SHRINK, row.outbox_id, done)
        return kept is not None

    def _count(self, pieces: Sequence[Piece], stored: frozenset[int], started: float) -> None:
        failed = {id_ for piece in pieces for id_ in piece.failing}
        done = {id_ for piece in pieces for id_, _, _ in piece.results} - failed
        metrics.ANALYSIS.labels(outcome="done").inc(len(stored & done))
        metrics.ANALYSIS.labels(outcome="failed").inc(len(stored & failed))
        metrics.ANALYSIS.labels(outcome="retried").inc(len(failed - stored))
        for piece in pieces:
            metrics.ANALYSIS_DURATION.observe(time.perf_counter() - started)
            if failing := len(piece.failing):
                metrics.count_error("analysis", failing)
                tries = piece.row.failures + 1
                logger.warning("analysis_failed", batch_id=piece.row.outbox_id, comments=failing, tries=tries)

    def _is_last_try(self, row: Loaded) -> bool:
        return row.failures >= self._settings.max_retries

    async def _count_starts(self, conn: Connection, rows: Sequence[Loaded], attempt: TaskAttempt) -> dict[int, int]:
        """Counts a start of each row, in one statement; returns the new counts by row.

        A row has no count if it no longer exists, or if another worker has changed its `failures` meanwhile.
        """
        if not rows:
            return {}
        before = [attempt.before(row.outbox_id, row.starts) for row in rows]
        ids, failures = [row.outbox_id for row in rows], [row.failures for row in rows]
        counted = {row["id"]: row["starts"] for row in await conn.fetch(outbox.COUNT_STARTS, ids, before, failures)}
        attempt.forget(set(ids) - counted.keys())
        return counted

    async def _isolate(self, batch: Loaded, attempt: TaskAttempt) -> bool:
        """Splits a batch that repeatedly ends its worker; marks the comment of a one-comment batch as failed.

        The count of starts, which is committed before the analysis begins, distinguishes such a batch from one whose
        message was merely lost. Returns True if nothing is left to do, False if the batch is to be analysed.
        """
        async with self._database.connection() as conn:
            starts = (await self._count_starts(conn, [batch], attempt)).get(batch.outbox_id)
        if starts is None:
            return True
        if starts <= max(self._settings.max_retries, LEAST_STARTS):
            return False
        saved = None
        async with self._database.transaction() as conn:
            if len(batch.comments) > 1:
                await conn.fetch(outbox.SPLIT_BATCH, batch.outbox_id)
            else:
                failed = [(id_, revision, Failure(reason=CUT_SHORT)) for id_, revision, _ in batch.comments]
                saved = await analyses.save_results(conn, [batch.outbox_id], failed, VERSION)
        if saved and saved.ended:
            metrics.ANALYSIS.labels(outcome="failed").inc(len(saved.comments))
        logger.error("batch_isolated", comments=len(batch.comments), starts=starts)
        return True

    async def _take_back_start(self, outbox_id: int, attempt: TaskAttempt) -> None:
        """Lowers the row's count of starts if this task raised it: the database, not a comment, ended the analysis.

        Otherwise good comments would be marked as failed because of a long lock or a missing privilege.
        """
        if outbox_id in attempt.counted:
            await self._best_effort(outbox.TAKE_BACK_STARTS, [outbox_id])

    async def _give_back(self, attempt: TaskAttempt) -> None:
        """Makes the unfinished rows due at once, for another worker."""
        if attempt.unfinished:
            ids = sorted(attempt.unfinished)
            logger.debug("given_back", batch_ids=ids)
            await self._best_effort(outbox.GIVE_BACK, ids, [id_ for id_ in ids if id_ in attempt.counted])

    async def _best_effort(self, query: Query, *arguments: Sequence[int]) -> None:
        """Runs a statement; skips it if the database is unavailable, because the sweep sends the row again anyway."""
        try:
            async with asyncio.timeout(times.GIVE_BACK), self._database.connection() as conn:
                await conn.fetch(query, *arguments)
        except Exception as error:  # noqa: BLE001 - see above
            logger.debug("not_given_back", statement=query.name, error=type(error).__name__)


def _named(known: RequestContexts, batches: Sequence[int]) -> dict[str, list[str]]:
    """Returns the known ids of the requests behind batches, for a log line; none for batches that were sent again."""
    found = correlation.request_ids(known, batches)[: correlation.MAX_REQUESTS] if known else []
    return {"request_ids": found} if found else {}


def _take(waiting: "deque[Loaded]", most: int) -> list[Loaded]:
    """Takes whole rows until they have `most` comments or more; if the first row has more, only `most` of them."""
    part = [waiting.popleft()]
    if len(part[0].comments) > most:
        row = part[0]
        waiting.appendleft(row._replace(comments=row.comments[most:]))
        return [row._replace(comments=row.comments[:most], more=True)]
    while waiting and sum(len(row.comments) for row in part) < most:
        part.append(waiting.popleft())
    return part


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[BatchProcessor]:
    """Opens a worker's database connections and closes them at the end."""
    require_dsn(settings)
    database = await open_database(
        settings.postgres_dsn,
        size=2,
        timeout=settings.processing_timeout,
        application="comment-monitor worker",
        stateless=True,
    )
    try:
        yield BatchProcessor(settings, database)
    finally:
        await database.close()
