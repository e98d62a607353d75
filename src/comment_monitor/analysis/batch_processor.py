"""What a worker process does with a batch: load, analyse, store; a comment that fails never stops others."""

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

# Comments whose results share a transaction, and seconds of analysis after which results are stored in any case.
COMMENTS_STORED_TOGETHER: Final = 125
SECONDS_STORED_TOGETHER: Final = 1.0
# Comments that a process takes together before it knows how long one takes: no row is cut for it.
COMMENTS_AT_FIRST: Final = 25
# Comments that are analysed before the event loop has its turn.
YIELD_EVERY: Final = 8
# Starts that do not come to an end before a row is split, or its one comment marked failed. (The comments of a split
# row begin with one start each, and each is to be analysed by itself at least once.)
LEAST_STARTS: Final = 2
NOT_KNOWN: Final[RequestContexts] = {}
CUT_SHORT: Final = "worker: every try ended before its result was stored"

Result = tuple[int, int, Analysis | Failure]


class Piece(NamedTuple):
    """A row, or a part of it, and the results of its first comments: of all, where the time was enough."""

    row: Loaded
    results: list[Result]

    @property
    def left(self) -> Loaded | None:
        """The comments without a result."""
        comments = self.row.comments[len(self.results) :]
        return self.row._replace(comments=comments) if comments else None

    @property
    def whole(self) -> bool:
        """Whether nothing of the row is left after these results."""
        return not self.row.more and self.left is None

    @property
    def failing(self) -> list[int]:
        """The comments on which an analyser failed."""
        return [id_ for id_, _, result in self.results if isinstance(result, Failure)]


class BatchProcessor:
    """Analyses batches for one process."""

    def __init__(self, settings: Settings, database: Database):
        self._settings = settings
        self._database = database
        # Seconds that the analysis of a comment takes, as measured last; None: not known yet.
        self._pace: float | None = None

    def attempt(self, *, redelivered: bool) -> TaskAttempt:
        """A task that begins now."""
        return TaskAttempt(redelivered=redelivered, text_seconds=self._settings.processing_timeout)

    async def analyse_batches(
        self, outbox_ids: Sequence[int], *, redelivered: bool, known: RequestContexts = NOT_KNOWN
    ) -> None:
        """Analyses outbox rows: in a group those that show no sign of having killed a worker, the others one by one.

        Never raises, as `analyse_batch`. Rows for which the time is not enough are given back.
        """
        attempt = self.attempt(redelivered=redelivered)
        rest = list(outbox_ids)
        failed = False
        # A message that comes again may have killed its worker: a row of it must not take the others with it.
        if len(rest) > 1 and not redelivered:
            try:
                async with attempt.timeout():
                    rest = await self._analyse_group(rest, attempt, known)
            except Exception as error:  # noqa: BLE001 - whichever row it was, by itself it gets its own treatment
                failed = True
                logger.warning("batches_taken_apart", batches=len(outbox_ids), error=type(error).__name__)
        for number, outbox_id in enumerate(rest):
            # The first row after a group that failed always gets its turn: else the next group would fail alike.
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
        """Analyses one outbox row's comments; a row that is gone was done by someone else.

        Never raises: where PostgreSQL stays away, or the unforeseen happens, the row is as it was, and the sweep
        sends it again. Lines bear the batch's id, and those of the requests behind it as far as they are known.
        Without an `attempt` the row is a task of its own.
        """
        task = attempt or self.attempt(redelivered=redelivered)
        with structlog.contextvars.bound_contextvars(batch_id=outbox_id, **_named(known, [outbox_id])):
            await self._analyse_whatever_happens(outbox_id, task, known)
            if attempt is None:
                await self._give_back(task)

    async def _analyse_whatever_happens(self, outbox_id: int, attempt: TaskAttempt, known: RequestContexts) -> None:
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
        """Returns the rows that have to be dealt with by themselves: begun before, without coming to an end."""
        async with self._database.connection() as conn:
            loaded = await outbox.load_batches(conn, outbox_ids)
            group = [row for row in loaded if row.starts == 0]
            # A row that was sent again has most likely waited, or got lost; only if it kills its worker now the count
            # will tell. (The broker does not deliver again what a worker was killed over by its time limit.)
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
        """Analyses and stores row after row while there is time; while PostgreSQL stores some, the next are analysed.

        At least one comment is analysed.
        """
        waiting = deque(rows)
        saving: asyncio.Task[None] | None = None
        try:
            while waiting:
                started = time.perf_counter()
                pieces = await self._analyse_part(_take(waiting, self._comments_together), attempt)
                attempt.let_store()
                if saving:
                    # Not to be waited for once more where it fails: the same exception would be raised again.
                    before, saving = saving, None
                    await before
                saving = asyncio.create_task(self._save(pieces, started, known))
                left = [row for piece in pieces if (row := piece.left)]
                waiting.extendleft(reversed(left))
                if attempt.group_is_over or (left and not any(piece.results for piece in pieces)):
                    break
        except asyncio.CancelledError:
            # The time is up.
            if saving:
                saving.cancel()
            raise
        finally:
            if saving:
                await saving
        attempt.unfinished.update(row.outbox_id for row in waiting)

    @property
    def _comments_together(self) -> int:
        """So many comments as are likely to be analysed by the time at which results are to be stored."""
        if self._pace is None:
            return COMMENTS_AT_FIRST
        return max(1, min(COMMENTS_STORED_TOGETHER, int(SECONDS_STORED_TOGETHER / max(self._pace, 1e-6))))

    async def _analyse_part(self, part: Sequence[Loaded], attempt: TaskAttempt) -> list[Piece]:
        """The results of the part's comments, as far as the time goes; each comment is analysed once.

        (A comment that was edited meanwhile stands in two rows, with the text of now.)
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
                # The transaction of the part before goes on meanwhile.
                await asyncio.sleep(0)
        if results:
            pace = (time.monotonic() - began) / len(results)
            self._pace = pace if self._pace is None else (self._pace + pace) / 2
        # A comment further on may have its result by way of another row: what counts is how far the row has come.
        return [
            Piece(row, [results[id_] for id_, _, _ in takewhile(lambda one: one[0] in results, row.comments)])
            for row in part
        ]

    async def _save(self, pieces: Sequence[Piece], started: float, known: RequestContexts) -> None:
        """Stores results in one transaction, and with them what becomes of their rows."""
        pieces = [piece for piece in pieces if piece.results or piece.whole]
        if not pieces:
            return
        ended: list[int] = []
        final: dict[int, Result] = {}
        for piece in pieces:
            keeps = piece.failing and not self._is_last_try(piece.row)
            if piece.whole and not keeps:
                ended.append(piece.row.outbox_id)
            final |= {one[0]: one for one in piece.results if not (keeps and isinstance(one[2], Failure))}
        async with self._database.transaction() as conn:
            saved = await analyses.save_results(conn, ended, list(final.values()), VERSION)
            ours = [piece for piece in pieces if piece.row.outbox_id in saved.ended]
            kept = [piece for piece in pieces if piece.row.outbox_id not in ended]
            ours += [piece for piece in kept if await self._keep_row(conn, piece)]
        self._count(ours, saved.comments, started)
        ids = [piece.row.outbox_id for piece in pieces]
        logger.debug("analysed", batch_ids=ids, comments=len(final), **_named(known, ids))

    async def _keep_row(self, conn: Connection, piece: Piece) -> bool:
        """Keeps what is left of a row: comments that failed, for a later try, and those not yet analysed.

        False where another worker was at the same row, and has counted its results.
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
        """Counts a start on rows, in one statement; returns the counts of those that are still there."""
        if not rows:
            return {}
        before = [attempt.before(row.outbox_id, row.starts) for row in rows]
        ids, failures = [row.outbox_id for row in rows], [row.failures for row in rows]
        counted = await conn.fetch(outbox.COUNT_STARTS, ids, before, failures)
        return {row["id"]: row["starts"] for row in counted}

    async def _isolate(self, batch: Loaded, attempt: TaskAttempt) -> bool:
        """Deals with a batch that keeps ending its worker: split first, and the one comment at fault marked failed.

        A batch that was merely lost on its way is told apart by its count of starts, which is committed before
        the analysis begins. True where there is nothing left to do.
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
        """A try that the database ended says nothing of a comment that ends its worker.

        Else a long lock, or a missing privilege, would have good comments marked failed.
        """
        if outbox_id in attempt.counted:
            await self._at_best(outbox.TAKE_BACK_STARTS, [outbox_id])

    async def _give_back(self, attempt: TaskAttempt) -> None:
        """Leaves the rows that are not finished to the next worker, at once."""
        if attempt.unfinished:
            ids = sorted(attempt.unfinished)
            logger.debug("given_back", batch_ids=ids)
            await self._at_best(outbox.GIVE_BACK, ids, [id_ for id_ in ids if id_ in attempt.counted])

    async def _at_best(self, query: Query, *arguments: Sequence[int]) -> None:
        """Runs a statement that the next sending makes up for: where the database is away, it is left out."""
        try:
            async with asyncio.timeout(times.GIVE_BACK), self._database.connection() as conn:
                await conn.fetch(query, *arguments)
        except Exception as error:  # noqa: BLE001 - see above
            logger.debug("not_given_back", statement=query.name, error=type(error).__name__)


def _named(known: RequestContexts, batches: Sequence[int]) -> dict[str, list[str]]:
    """The requests behind batches, for a line; what was sent again does not tell."""
    found = correlation.request_ids(known, batches)[: correlation.MAX_REQUESTS] if known else []
    return {"request_ids": found} if found else {}


def _take(waiting: "deque[Loaded]", most: int) -> list[Loaded]:
    """The next rows, whole ones, until they have so many comments; of a first one that has more, its first comments."""
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
    """A worker with its connection."""
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
