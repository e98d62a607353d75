"""The data flow of a comment on one page: batch, queue, look up, store, commit, cache, publish, respond."""

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
    Receipt,  # check-words: kept - a schema name in OpenAPI
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

# Seconds after a refused write during which `/health` reports it: the next write will probably be refused too.
TROUBLE_LASTS: Final = 60.0


class Pipeline:
    """Stores the parsed comments of one process."""

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
        # Whether, in the last write, most comments that Redis did not know were already stored in PostgreSQL with the
        # same text. If so, Redis has lost entries, and more such comments will follow.
        self._forgotten = False
        # Whether the last write stored only new comments: then the comments of the next write are probably new too.
        self._all_new = True
        # Why the database refused a write although it responded, and when (`time.monotonic`). None: it refused none, or
        # a later group of batches succeeded, even if nothing was left to write. Other errors do not change the value.
        self._failed: tuple[str, float] | None = None

    @property
    def trouble(self) -> str | None:
        """Why the database refused a recent write although it responded; None: no refusal, or a later success."""
        if self._failed and time.monotonic() - self._failed[1] < TROUBLE_LASTS:
            return self._failed[0]
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Pipeline"]:
        """Runs the writers; at the end closes the queue and writes the queued batches."""
        writers = [asyncio.create_task(self._write_groups(), name=f"writer-{n}") for n in range(self.settings.writers)]
        try:
            yield self
        finally:
            await self.queue.close()
            await asyncio.gather(*writers)

    async def process(self, parsed: Parsed) -> Receipt:  # check-words: kept
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
            rejected=sorted(rejected, key=lambda rejection: rejection.index),
        )

    async def submit(self, comments: Sequence[Comment]) -> list[Outcome]:
        """Waits until all comments are committed; returns the outcome of each, in their order."""
        self._require_storable(comments)
        repeats = len({(comment.source, comment.id) for comment in comments}) < len(comments)
        outcomes: list[Outcome] = []
        with tracing.span("store comments", comments=len(comments)):
            try:
                async with asyncio.timeout(self.settings.processing_timeout):
                    # The texts of one comment are written in order: each write starts after the previous one ends.
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
            # Batches with the same comment must not overtake each other, so one write contains all of them.
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
        """Checks that the schema has columns for the comments' fields: before migration 009 it lacks some.

        A removal notice (a platform's text such as "[removed]") with an author is accepted: before migration 009 it is
        stored like any other text, without `removed_at`.

        Raises:
            SchemaBehind: a comment has no author, or has another field that the schema lacks.
        """
        if self._before_009 and any(comment.author is None or comment.details != NO_DETAILS for comment in comments):
            metrics.count_error(errors.SchemaBehind.slug)
            raise errors.SchemaBehind(
                "Comments without an author, or with author_id, edited_at, url or likes, are accepted once the "
                "database is migrated: run `comment-monitor migrate`, or repeat the request later."
            )

    async def _write_groups(self) -> None:
        while (group := await self.queue.take(self.settings.write_group_size)) is not None:
            await self._process_group(group)

    async def _process_group(self, group: list[Batch]) -> None:
        """Commits batches together, and completes or fails each; never raises, because that would end the writer.

        If PostgreSQL rejects their data, writes each batch separately to find the comment at fault.
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
        """Writes a batch comment by comment, after PostgreSQL rejected it, and rejects those that can't be stored."""
        if len(batch.comments) == 1:
            return [_reject(error)]
        outcomes: list[Outcome] = []
        for comment in batch.comments:
            try:
                [[outcome]] = await self._dedup_and_store([[comment]], [batch.request.context])
            except errors.NotStorableError as fault:
                outcome = _reject(fault)
            outcomes.append(outcome)
        return outcomes

    async def _dedup_and_store(
        self, parts: Sequence[Sequence[Comment]], contexts: Sequence[RequestContext | None]
    ) -> list[list[Outcome]]:
        """Looks up, stores, commits, caches and publishes all parts; repeats failed steps as `with_retries` allows."""
        comments = [comment for part in parts for comment in part]
        keys = self._cache.keys_of(comments)
        cached = await self._cache.lookup(keys)
        # If the workers' queue has no free capacity, the new outbox rows are not published: they are written as due for
        # the sweep.
        sent = self._publisher.free_capacity > 0
        with self._refusals_in_words():
            found = await self._find_existing(comments, keys, cached) if self._forgotten else []
            plan = WritePlan(comments, cached, found)
            written = await self._write(plan, sent) if plan.rounds else []
        self._failed = None
        await self._cache.store(keys, plan.record_results(written))
        if unknown := len(found) + sum(map(len, plan.rounds)):
            self._forgotten = plan.duplicates["database"] * 2 > unknown
        outbox = [id_ for result in written for id_ in result.outbox]
        if sent:
            self._publisher.publish(outbox, self._contexts_by_row(plan, written, parts, contexts))
        _report(plan, outbox, sent=sent, contexts=contexts)
        outcomes = iter(plan.outcomes)
        return [[next(outcomes) for _ in part] for part in parts]

    @contextmanager
    def _refusals_in_words(self) -> Iterator[None]:
        """Converts the driver's exceptions to SchemaBehind, DatabaseUnavailable or NotStorableError."""
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
            raise errors.NotStorableError(f"PostgreSQL refused the comment ({type(error).__name__})") from None

    async def _find_existing(self, comments: Sequence[Comment], keys: CacheKeys, cached: Sequence[bool]) -> list[int]:
        """Returns the indexes of comments that Redis did not know but that are stored with the same content.

        Returns nothing if an identity repeats: `WritePlan` uses these indexes only if all identities are distinct.

        Writes the found comments to Redis at once: the later an entry is written, the more likely its text is outdated.
        """
        unknown = [index for index, known in enumerate(cached) if not known]
        if not unknown or len({comment.key for comment in comments}) < len(comments):
            return []

        async def query() -> list[int]:
            async with self._database.connection() as conn:
                asked = [comments[index] for index in unknown]
                return await stored.find_stored(conn, asked, before_009=self._before_009)

        found = [unknown[place] for place in await with_retries(self.settings, query)]
        await self._cache.store(keys, [(index, 0) for index in found])
        return found

    async def _write(self, plan: WritePlan, sent: bool) -> list[Written]:
        """Writes the plan's rounds, one statement each (see `WritePlan`).

        Edits need a call of `_invalidate` between their write and its commit, which costs round trips. New comments
        need none. So after a write of only new comments, a plan of one round begins with one autocommit statement that
        adds the new comments, and a transaction writes the others, if any. (Before migration 009: only a transaction.)
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
            # The comments of `_add_new` stay committed although their requests may fail, so their outbox rows are
            # published. If a client repeats such a request, these comments count as duplicates.
            if sent and added:
                self._publisher.publish(added[0].outbox, {})
            raise
        self._all_new = all(result.all_new for result in written)
        return written

    async def _add_new(self, plan: WritePlan, resend_after: float | None) -> Written:
        comments = plan.comments_of(0)
        async with self._database.connection() as conn:
            return await stored.add(conn, comments, batch_size=self.settings.batch_size, resend_after=resend_after)

    async def _write_transaction(
        self, plan: WritePlan, added: Sequence[Written], resend_after: float | None
    ) -> list[Written]:
        """Writes the rounds that `_add_new` has not written, in one transaction."""
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
            read_at = time.monotonic()
            namespace = await self._invalidate(conn, edited) if edited else None
        if edited:
            self._cache.use_namespace(namespace, read_at + cache_namespace.LEASE)
        return written

    async def _invalidate(self, conn: Connection, edited: list[Known]) -> bytes | None:
        """Ensures that no process mistakes an old text for the latest one.

        Returns the prefix to use from now on; None: no prefix may be used until it is read from the database again.
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
        """Returns for each outbox row the requests whose comments it holds, as far as they have a request id.

        If only one request of the group has an id, it is named for every row.
        """
        known = {context for context in contexts if context}
        if len(known) < 2:  # noqa: PLR2004 - at most one request
            return {id_: list(known) for result in written for id_ in result.outbox} if known else {}
        owners = [context for part, context in zip(parts, contexts, strict=True) for _ in part]
        return {
            outbox_id: list(dict.fromkeys(owner for index in indexes if (owner := owners[index])))
            for outbox_id, indexes in plan.rows_by_outbox_id(written, self.settings.batch_size).items()
        }


def _reject(error: errors.NotStorableError) -> Outcome:
    metrics.count_error("not-storable")
    return Outcome("rejected", str(error))


def _report(plan: WritePlan, outbox: list[int], *, sent: bool, contexts: Sequence[RequestContext | None]) -> None:
    """Counts the results of a write, and logs them at DEBUG."""
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
    """Fails the requests of the group on any exception, and suppresses it."""
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
