"""The flow of a comment on one page: batch, queue, dedup, store, commit, remember, answer, publish."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import asyncpg
import structlog

from comment_monitor.core import errors
from comment_monitor.core.config import Settings
from comment_monitor.core.model import (
    DUPLICATE,
    NO_DETAILS,
    STORED,
    UPDATED,
    Comment,
    Outcome,
    Parsed,
    Receipt,
    Rejection,
)
from comment_monitor.intake.batch_queue import Batch, PendingRequest, ProcessingQueue
from comment_monitor.intake.dedup_cache import CacheKeys, DedupCache, Known
from comment_monitor.intake.write_plan import WritePlan, runs
from comment_monitor.messaging.publisher import Publisher
from comment_monitor.observability import logs, metrics, tracing
from comment_monitor.observability.correlation import MOST, RequestContext, RequestContexts
from comment_monitor.storage import cache_namespace
from comment_monitor.storage import comments as stored
from comment_monitor.storage.comments import Written
from comment_monitor.storage.postgres import REFUSES_WRITES, SCHEMA_MISSING_ERRORS, Connection, Database, in_words
from comment_monitor.storage.readiness import DatabaseState
from comment_monitor.storage.retry import RETRIED, with_retries

logger = logs.get(__name__)

# Seconds for which a failed write says something of the next one.
TROUBLE_LASTS: Final = 60.0


class Pipeline:
    """One process's way from parsed comments to committed ones."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        cache: DedupCache,
        publisher: Publisher,
        schema: DatabaseState | None = None,
    ):
        self.settings = settings
        self._schema = schema
        self.queue = ProcessingQueue(settings.queue_capacity)
        self._database = database
        self._cache = cache
        self._publisher = publisher
        # Whether what Redis did not know was mostly stored already: then it has forgotten, and more of it will come.
        self._forgotten = False
        # Whether all that the last write was about was new: then so is most of what follows.
        self._all_new = True
        # Why the latest write failed, and when (of `time.monotonic`).
        self._failed: tuple[str, float] | None = None

    @property
    def trouble(self) -> str | None:
        """Why the database, which answers, takes no writes, as the latest one found; None: it took it, or long ago."""
        if self._failed and time.monotonic() - self._failed[1] < TROUBLE_LASTS:
            return self._failed[0]
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Pipeline"]:
        """Runs the writers; at the end the queue is closed and what it holds is written."""
        writers = [asyncio.create_task(self._writer(), name=f"writer-{n}") for n in range(self.settings.writers)]
        try:
            yield self
        finally:
            await self.queue.close()
            await asyncio.gather(*writers)

    async def process(self, parsed: Parsed) -> Receipt:
        """Stores a request's comments; returns once they are committed.

        Raises:
            Unavailable: QueueFull, Draining, Timeout, DatabaseUnavailable, SchemaBehind. Some batches may have been
                committed; a repeat counts them as duplicates.
        """
        fates = await self.settle(parsed.comments)
        stored, updated, duplicates = map(fates.count, (STORED, UPDATED, DUPLICATE))
        rejected = list(parsed.rejected)
        if stored + updated + duplicates < len(fates):
            rejected += [
                Rejection(index, comment.id, fate.reason)
                for comment, index, fate in zip(parsed.comments, parsed.indexes, fates, strict=True)
                if fate.kind == "rejected"
            ]
        if parsed.rejected:
            metrics.count_error("invalid-comment", len(parsed.rejected))
        return Receipt(
            post_id=parsed.post_id,
            received=len(parsed.comments) + len(parsed.rejected),
            stored=stored,
            updated=updated,
            duplicates=duplicates,
            queued=stored + updated,
            rejected=sorted(rejected, key=lambda one: one.index),
        )

    async def settle(self, comments: Sequence[Comment]) -> list[Outcome]:
        """The fate of each comment, in order, once all are committed."""
        with tracing.span("store comments", comments=len(comments)):
            return await self._settle(comments)

    async def _settle(self, comments: Sequence[Comment]) -> list[Outcome]:
        self._require_storable(comments)
        again = len({(one.source, one.id) for one in comments}) < len(comments)
        fates: list[Outcome] = []
        try:
            async with asyncio.timeout(self.settings.processing_timeout):
                # Texts of one comment are taken in their order: each write begins when the one before has ended.
                for run in runs(comments) if again else (comments,):
                    fates += await (await self._accept(run, again=again)).fates()
                return fates
        except TimeoutError:
            metrics.count_error(errors.Timeout.slug)
            late = f"Not committed within {self.settings.processing_timeout} s; repeating the request is safe."
            raise errors.Timeout(late) from None

    async def _accept(self, comments: Sequence[Comment], *, again: bool) -> PendingRequest:
        size = self.settings.batch_size
        parts = [comments[at : at + size] for at in range(0, len(comments), size)]
        try:
            # The batches of one comment may not overtake each other: one write has all.
            return await self.queue.put(parts, joined=again and len(parts) > 1, origin=tracing.origin())
        except errors.Unavailable as problem:
            metrics.count_error(problem.slug)
            raise

    @property
    def _before_009(self) -> bool:
        return self._schema is not None and self._schema.before_009

    @property
    def _before_012(self) -> bool:
        return self._schema is not None and self._schema.before_012

    def _require_storable(self, comments: Sequence[Comment]) -> None:
        """The schema of the release before has no place for some of what a comment may tell: it comes with a migration.

        Raises:
            SchemaBehind: a comment tells it.
        """
        if self._before_009 and any(one.author is None or one.details != NO_DETAILS for one in comments):
            metrics.count_error(errors.SchemaBehind.slug)
            raise errors.SchemaBehind(
                "Comments without an author, or with author_id, edited_at, url or likes, are taken once the database "
                "is migrated: run `comment-monitor migrate`, or repeat the request later."
            )

    async def _writer(self) -> None:
        while (group := await self.queue.take(self.settings.write_group_size)) is not None:
            await self._write(group)

    async def _write(self, group: list[Batch]) -> None:
        """Settles every batch of the group, one way or the other; never raises, or the writer would be gone."""
        origins = dict.fromkeys(batch.request.origin for batch in group if batch.request.origin)
        with structlog.contextvars.bound_contextvars(request_ids=[one.request_id for one in origins][:MOST]):
            await self._settle_group(group)

    async def _settle_group(self, group: list[Batch]) -> None:
        try:
            await self._commit_group(group)
        except errors.Problem as problem:
            metrics.count_error(problem.slug, len(group))
            _give_up(group, problem)
        except Exception:
            logger.exception("write_failed")
            metrics.count_error("internal", len(group))
            _give_up(group, errors.DatabaseUnavailable("The comments could not be stored; repeat the request."))

    async def _commit_group(self, group: list[Batch]) -> None:
        """Commits batches together; if PostgreSQL refuses them as data, each by itself, to find the one at fault."""
        try:
            fates = await self._commit([batch.comments for batch in group], [batch.request.origin for batch in group])
        except errors.NotStorableError as error:
            if len(group) > 1:
                for batch in group:
                    await self._write([batch])
                return
            fates = [await self._one_by_one(group[0].comments, group[0].request.origin, error)]
        for batch, result in zip(group, fates, strict=True):
            _settle(batch, result)

    async def _one_by_one(
        self, comments: Sequence[Comment], origin: RequestContext | None, error: errors.NotStorableError
    ) -> list[Outcome]:
        """Stores what can be stored of a batch in which some comment can't."""
        if len(comments) == 1:
            metrics.count_error("not-storable")
            return [Outcome("rejected", str(error))]
        result: list[Outcome] = []
        for comment in comments:
            try:
                [[fate]] = await self._commit([[comment]], [origin])
            except errors.NotStorableError as why:
                [fate] = await self._one_by_one([comment], origin, why)
            result.append(fate)
        return result

    async def _commit(
        self, parts: Sequence[Sequence[Comment]], origins: Sequence[RequestContext | None]
    ) -> list[list[Outcome]]:
        """Dedup, store, commit, remember and publish for all parts in one go; retried while PostgreSQL is away."""
        comments = [comment for part in parts for comment in part]
        marks = self._cache.marks(comments)
        seen = await self._cache.seen(marks)
        # What would not get through now is left to the sweep from the start.
        sent = self._publisher.room > 0
        try:
            found = await self._look(comments, marks, seen) if self._forgotten else []
            plan = WritePlan(comments, seen, found)
            written = await self._store_all(plan, sent) if plan.waves else []
        except SCHEMA_MISSING_ERRORS:
            raise errors.SchemaBehind("The database is not migrated: run `comment-monitor migrate`.") from None
        except RETRIED as error:
            why = in_words(error)
            if isinstance(error, REFUSES_WRITES):
                self._failed = (why, time.monotonic())
            logger.warning("database_unavailable", error=type(error).__name__)
            raise errors.DatabaseUnavailable(
                f"The database can't be used: {why}; repeating the request is safe."
            ) from None
        except (asyncpg.DataError, asyncpg.StatementTooComplexError, asyncpg.ProgramLimitExceededError) as error:
            raise errors.NotStorableError(f"PostgreSQL refused it ({type(error).__name__})") from None
        self._failed = None
        await self._cache.remember(marks, plan.apply(written))
        if unknown := len(found) + sum(map(len, plan.waves)):
            self._forgotten = plan.duplicates["database"] * 2 > unknown
        outbox = [id_ for one in written for id_ in one.outbox]
        if sent:
            self._publisher.publish(outbox, self._origins(plan, written, parts, origins))
        if logs.at_debug():
            new, edited = plan.new_and_edited()
            known = plan.duplicates.total()
            names = list(dict.fromkeys(one.request_id for one in origins if one))
            logger.debug(
                "stored", request_ids=names, new=new, edited=edited, duplicates=known, batch_ids=outbox, sent=sent
            )
        _count(plan)
        fates = iter(plan.fates)
        return [[next(fates) for _ in part] for part in parts]

    async def _look(self, comments: Sequence[Comment], marks: CacheKeys, seen: Sequence[bool]) -> list[int]:
        """Which comments that Redis did not know are stored just like this; none where one stands twice.

        They are noted at once: the note of a text that is no longer the latest must not come later than it has to.
        (Of one that stands twice, the first has to lock it: its edit in a later wave would lock out of order.)
        """
        unknown = [index for index, known in enumerate(seen) if not known]
        if not unknown or len({comment.key for comment in comments}) < len(comments):
            return []

        async def look() -> list[int]:
            async with self._database.connection() as conn:
                asked = [comments[index] for index in unknown]
                return await stored.look_for(conn, asked, before_009=self._before_009)

        found = [unknown[place] for place in await with_retries(self.settings, look)]
        await self._cache.remember(marks, [(index, 0) for index in found])
        return found

    def _origins(
        self,
        plan: WritePlan,
        written: Sequence[Written],
        parts: Sequence[Sequence[Comment]],
        origins: Sequence[RequestContext | None],
    ) -> RequestContexts:
        """The requests whose comments are in each outbox row."""
        known = {one for one in origins if one}
        if len(known) < 2:  # noqa: PLR2004 - one request, or none that is known
            return {id_: list(known) for one in written for id_ in one.outbox} if known else {}
        owners = [origin for part, origin in zip(parts, origins, strict=True) for _ in part]
        return {
            outbox_id: list(dict.fromkeys(owner for index in indexes if (owner := owners[index])))
            for outbox_id, indexes in plan.queued(written, self.settings.batch_size).items()
        }

    async def _store_all(self, plan: WritePlan, sent: bool) -> list[Written]:
        """Writes the waves. What edits need between their write and its commit (`_supersede`) takes round trips.

        New comments need none of it, so where most are new, one statement that commits by itself adds those that are,
        and a transaction takes the others.
        """
        resend_after = self.settings.resend_after if sent else None
        added: list[Written] = []
        if self._all_new and len(plan.waves) == 1 and not self._before_009:
            added = [await with_retries(self.settings, partial(self._add, plan, resend_after))]
            if added[0].all_new:
                return added
            plan.part(added[0])
        try:
            written = await with_retries(self.settings, partial(self._store, plan, added, resend_after))
        except Exception:
            # They are committed, though their requests may hear that it failed: for their repeats they are duplicates.
            if sent and added:
                self._publisher.publish(added[0].outbox, {})
            raise
        self._all_new = all(one.all_new for one in written)
        return written

    async def _add(self, plan: WritePlan, resend_after: float | None) -> Written:
        async with self._database.connection() as conn:
            return await stored.add(conn, plan.wave(0), batch_size=self.settings.batch_size, resend_after=resend_after)

    async def _store(self, plan: WritePlan, added: Sequence[Written], resend_after: float | None) -> list[Written]:
        """Writes the waves that are not written yet."""
        async with self._database.transaction() as conn:
            written = [*added] + [
                await stored.write(
                    conn,
                    plan.wave(number),
                    batch_size=self.settings.batch_size,
                    resend_after=resend_after,
                    before_009=self._before_009,
                )
                for number in range(len(added), len(plan.waves))
            ]
            edited = plan.edited(written)
            asked = time.monotonic()
            namespace = await self._supersede(conn, edited) if edited else None
        if edited:
            self._cache.go_by(namespace, asked + cache_namespace.LEASE)
        return written

    async def _supersede(self, conn: Connection, edited: list[Known]) -> bytes | None:
        """Sees to it that no process takes an old text for the latest one.

        Returns the prefix to go by from now on; None: none until the database has been asked again.
        """
        if self._cache.reachable:
            valid = await cache_namespace.hold(conn, before_012=self._before_012)
            if await self._cache.supersede(edited, (valid.current, valid.previous)):
                return valid.current if valid.believed else None
        return await cache_namespace.disown(conn, before_012=self._before_012)


def _count(plan: WritePlan) -> None:
    new, edited = plan.new_and_edited()
    if conflicts := len(plan.fates) - new - edited - plan.duplicates.total():
        metrics.count_error("conflict", conflicts)
    metrics.STORED.labels(kind="new").inc(new)
    metrics.STORED.labels(kind="edited").inc(edited)
    for tier, amount in plan.duplicates.items():
        metrics.DUPLICATES.labels(tier=tier).inc(amount)


def _settle(batch: Batch, fates: list[Outcome]) -> None:
    metrics.PROCESSING_DURATION.observe(time.perf_counter() - batch.arrived)
    metrics.SUCCESS.inc()
    batch.settle(fates)


def _give_up(group: list[Batch], problem: errors.Problem) -> None:
    for batch in group:
        batch.fail(problem.again())
