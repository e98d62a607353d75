"""The flow of a comment on one page: batch, queue, look up, store, commit, cache, answer, publish."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

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
from comment_monitor.observability.correlation import MAX_REQUESTS, RequestContext, RequestContexts
from comment_monitor.storage import cache_namespace
from comment_monitor.storage import comments as stored
from comment_monitor.storage.comments import Written
from comment_monitor.storage.postgres import (
    NOT_STORABLE_ERRORS,
    REFUSES_WRITES,
    SCHEMA_MISSING_ERRORS,
    Connection,
    Database,
    in_words,
)
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
        writers = [asyncio.create_task(self._write_groups(), name=f"writer-{n}") for n in range(self.settings.writers)]
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
        outcomes = await self.submit(parsed.comments)
        stored, updated, duplicates = map(outcomes.count, (STORED, UPDATED, DUPLICATE))
        rejected = list(parsed.rejected)
        if stored + updated + duplicates < len(outcomes):
            rejected += [
                Rejection(index, comment.id, outcome.reason)
                for comment, index, outcome in zip(parsed.comments, parsed.indexes, outcomes, strict=True)
                if outcome.status == "rejected"
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

    async def submit(self, comments: Sequence[Comment]) -> list[Outcome]:
        """Waits until all comments are committed; returns the outcome of each, in their order."""
        self._require_storable(comments)
        repeats = len({(one.source, one.id) for one in comments}) < len(comments)
        outcomes: list[Outcome] = []
        with tracing.span("store comments", comments=len(comments)):
            try:
                async with asyncio.timeout(self.settings.processing_timeout):
                    # Texts of one comment are taken in their order: each write begins when the one before has ended.
                    for run in runs(comments) if repeats else (comments,):
                        outcomes += await (await self._enqueue(run, repeats=repeats)).outcomes()
            except TimeoutError:
                metrics.count_error(errors.Timeout.slug)
                late = f"Not committed within {self.settings.processing_timeout} s; repeating the request is safe."
                raise errors.Timeout(late) from None
        return outcomes

    async def _enqueue(self, comments: Sequence[Comment], *, repeats: bool) -> PendingRequest:
        size = self.settings.batch_size
        parts = [comments[at : at + size] for at in range(0, len(comments), size)]
        try:
            # The batches of one comment may not overtake each other: one write has all.
            return await self.queue.put(parts, same_write=repeats and len(parts) > 1, context=tracing.request_context())
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

    async def _write_groups(self) -> None:
        while (group := await self.queue.take(self.settings.write_group_size)) is not None:
            await self._process_group(group)

    async def _process_group(self, group: list[Batch]) -> None:
        """Commits batches together, and completes or fails each; never raises, or its writer would end.

        If PostgreSQL refuses them as data, each goes by itself, to find the comment at fault.
        """
        contexts = [batch.request.context for batch in group]
        names = [context.request_id for context in dict.fromkeys(contexts) if context][:MAX_REQUESTS]
        with structlog.contextvars.bound_contextvars(request_ids=names), _failures_answered(group):
            try:
                outcomes = await self._dedup_and_store([batch.comments for batch in group], contexts)
            except errors.NotStorableError as error:
                if len(group) > 1:
                    for batch in group:
                        await self._process_group([batch])
                    return
                outcomes = [await self._isolate_bad_comments(group[0], error)]
            for batch, result in zip(group, outcomes, strict=True):
                metrics.PROCESSING_DURATION.observe(time.perf_counter() - batch.arrived)
                metrics.SUCCESS.inc()
                batch.complete(result)

    async def _isolate_bad_comments(self, batch: Batch, error: errors.NotStorableError) -> list[Outcome]:
        """Stores comment by comment what can be stored of a batch in which some comment can't."""
        if len(batch.comments) == 1:
            return [_reject(error)]
        outcomes: list[Outcome] = []
        for comment in batch.comments:
            try:
                [[outcome]] = await self._dedup_and_store([[comment]], [batch.request.context])
            except errors.NotStorableError as why:
                outcome = _reject(why)
            outcomes.append(outcome)
        return outcomes

    async def _dedup_and_store(
        self, parts: Sequence[Sequence[Comment]], contexts: Sequence[RequestContext | None]
    ) -> list[list[Outcome]]:
        """Look up, store, commit, cache and publish for all parts in one go; retried while PostgreSQL is away."""
        comments = [comment for part in parts for comment in part]
        keys = self._cache.keys_of(comments)
        cached = await self._cache.lookup(keys)
        # What would not get through now is left to the sweep from the start.
        sent = self._publisher.free_capacity > 0
        with self._refusals_in_words():
            found = await self._find_existing(comments, keys, cached) if self._forgotten else []
            plan = WritePlan(comments, cached, found)
            written = await self._write(plan, sent) if plan.rounds else []
        self._failed = None
        await self._cache.store(keys, plan.record_results(written))
        if unknown := len(found) + sum(map(len, plan.rounds)):
            self._forgotten = plan.duplicates["database"] * 2 > unknown
        outbox = [id_ for one in written for id_ in one.outbox]
        if sent:
            self._publisher.publish(outbox, self._contexts_by_row(plan, written, parts, contexts))
        _report(plan, outbox, sent=sent, contexts=contexts)
        outcomes = iter(plan.outcomes)
        return [[next(outcomes) for _ in part] for part in parts]

    @contextmanager
    def _refusals_in_words(self) -> Iterator[None]:
        """Raises what the driver raises as SchemaBehind, DatabaseUnavailable or NotStorableError."""
        try:
            yield
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
        except NOT_STORABLE_ERRORS as error:
            raise errors.NotStorableError(f"PostgreSQL refused it ({type(error).__name__})") from None

    async def _find_existing(self, comments: Sequence[Comment], keys: CacheKeys, cached: Sequence[bool]) -> list[int]:
        """Which comments that Redis did not know are stored just like this; none where an identity comes twice.

        They are cached at once: an entry for a text that is no longer the latest must not come later than it has to.
        (Of an identity that comes twice, the first has to lock it: an edit in a later round would lock out of order.)
        """
        unknown = [index for index, known in enumerate(cached) if not known]
        if not unknown or len({comment.key for comment in comments}) < len(comments):
            return []

        async def look() -> list[int]:
            async with self._database.connection() as conn:
                asked = [comments[index] for index in unknown]
                return await stored.look_for(conn, asked, before_009=self._before_009)

        found = [unknown[place] for place in await with_retries(self.settings, look)]
        await self._cache.store(keys, [(index, 0) for index in found])
        return found

    async def _write(self, plan: WritePlan, sent: bool) -> list[Written]:
        """Writes the rounds. What edits need between their write and its commit (`_invalidate`) takes round trips.

        New comments need none of it, so where most are new, one statement that commits by itself adds those that are,
        and a transaction takes the others.
        """
        resend_after = self.settings.resend_after if sent else None
        added: list[Written] = []
        if self._all_new and len(plan.rounds) == 1 and not self._before_009:
            added = [await with_retries(self.settings, partial(self._add_new, plan, resend_after))]
            if added[0].all_new:
                return added
            plan.split_off(added[0])
        try:
            written = await with_retries(self.settings, partial(self._write_transaction, plan, added, resend_after))
        except Exception:
            # They are committed, though their requests may hear that it failed: for their repeats they are duplicates.
            if sent and added:
                self._publisher.publish(added[0].outbox, {})
            raise
        self._all_new = all(one.all_new for one in written)
        return written

    async def _add_new(self, plan: WritePlan, resend_after: float | None) -> Written:
        comments = plan.comments_of(0)
        async with self._database.connection() as conn:
            return await stored.add(conn, comments, batch_size=self.settings.batch_size, resend_after=resend_after)

    async def _write_transaction(
        self, plan: WritePlan, added: Sequence[Written], resend_after: float | None
    ) -> list[Written]:
        """Writes the rounds that are not written yet."""
        async with self._database.transaction() as conn:
            written = [*added] + [
                await stored.write(
                    conn,
                    plan.comments_of(number),
                    batch_size=self.settings.batch_size,
                    resend_after=resend_after,
                    before_009=self._before_009,
                )
                for number in range(len(added), len(plan.rounds))
            ]
            edited = plan.edited(written)
            asked = time.monotonic()
            namespace = await self._invalidate(conn, edited) if edited else None
        if edited:
            self._cache.use_namespace(namespace, asked + cache_namespace.LEASE)
        return written

    async def _invalidate(self, conn: Connection, edited: list[Known]) -> bytes | None:
        """Sees to it that no process takes an old text for the latest one.

        Returns the prefix to use from now on; None: none until the database has been asked again.
        """
        if self._cache.reachable:
            valid = await cache_namespace.hold(conn, before_012=self._before_012)
            if await self._cache.invalidate(edited, (valid.current, valid.previous)):
                return valid.current if valid.believed else None
        return await cache_namespace.disown(conn, before_012=self._before_012)

    def _contexts_by_row(
        self,
        plan: WritePlan,
        written: Sequence[Written],
        parts: Sequence[Sequence[Comment]],
        contexts: Sequence[RequestContext | None],
    ) -> RequestContexts:
        """The requests whose comments are in each outbox row."""
        known = {context for context in contexts if context}
        if len(known) < 2:  # noqa: PLR2004 - one request, or none that is known
            return {id_: list(known) for one in written for id_ in one.outbox} if known else {}
        owners = [context for part, context in zip(parts, contexts, strict=True) for _ in part]
        return {
            outbox_id: list(dict.fromkeys(owner for index in indexes if (owner := owners[index])))
            for outbox_id, indexes in plan.rows_by_outbox_id(written, self.settings.batch_size).items()
        }


def _reject(error: errors.NotStorableError) -> Outcome:
    metrics.count_error("not-storable")
    return Outcome("rejected", str(error))


def _report(plan: WritePlan, outbox: list[int], *, sent: bool, contexts: Sequence[RequestContext | None]) -> None:
    """Counts what a write did, and logs it at DEBUG."""
    new, edited = plan.new_and_edited()
    duplicates = plan.duplicates.total()
    if logs.at_debug():
        names = list(dict.fromkeys(context.request_id for context in contexts if context))
        logger.debug(
            "stored", request_ids=names, new=new, edited=edited, duplicates=duplicates, batch_ids=outbox, sent=sent
        )
    if conflicts := len(plan.outcomes) - new - edited - duplicates:
        metrics.count_error("conflict", conflicts)
    metrics.STORED.labels(kind="new").inc(new)
    metrics.STORED.labels(kind="edited").inc(edited)
    for tier, amount in plan.duplicates.items():
        metrics.DUPLICATES.labels(tier=tier).inc(amount)


@contextmanager
def _failures_answered(group: list[Batch]) -> Iterator[None]:
    """Whatever is raised fails the requests of the group, and goes no further."""
    try:
        yield
    except errors.Problem as problem:
        metrics.count_error(problem.slug, len(group))
        _fail_group(group, problem)
    except Exception:
        logger.exception("write_failed")
        metrics.count_error("internal", len(group))
        _fail_group(group, errors.DatabaseUnavailable("The comments could not be stored; repeat the request."))


def _fail_group(group: list[Batch], problem: errors.Problem) -> None:
    for batch in group:
        batch.fail(problem.again())
