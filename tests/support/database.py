"""Comments stored without a server, the resulting rows, and concurrent sessions."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import psycopg2
import psycopg2.extensions
from psycopg2.extras import RealDictCursor

from comment_monitor.analysis.batch_processor import open_worker
from comment_monitor.analysis.findings import repetition
from comment_monitor.analysis.findings.text import read
from comment_monitor.core.config import Settings
from comment_monitor.core.model import Receipt  # check-words: kept
from comment_monitor.intake.dedup_cache import DedupCache
from comment_monitor.intake.pipeline import Pipeline
from comment_monitor.messaging.publisher import Publisher
from comment_monitor.storage.invariants import check
from comment_monitor.storage.postgres import Database, open_database
from tests.conftest import execute
from tests.support.requests import parsed

LONG_AGO: Final = datetime(2001, 2, 3, tzinfo=UTC)


@asynccontextmanager
async def opened(settings: Settings, *, timeout: float | None = None) -> AsyncIterator[Database]:  # noqa: ASYNC109
    """Yields a connection pool like the program's own."""
    patience = settings.processing_timeout if timeout is None else timeout
    database = await open_database(settings.postgres_dsn, size=4, timeout=patience, application="test")
    try:
        yield database
    finally:
        await database.close()


async def take_in(settings: Settings, *comments: dict[str, Any], **more: Any) -> Receipt:  # check-words: kept
    """Stores comments as a request would, without publisher and sweep."""
    async with (
        opened(settings) as database,
        Pipeline(settings, database, DedupCache(None, ttl=1), Publisher(None)).running() as pipeline,
    ):
        response = await pipeline.process(parsed(*comments, **more))
    assert not response.rejected
    return response


async def analyse_all(settings: Settings, *, redelivered: bool = False) -> None:
    """Processes every outbox row once with a worker, due or not."""
    async with open_worker(settings) as worker:
        for row in outbox(settings.postgres_dsn):
            await worker.analyse_batch(row.id, redelivered=redelivered)


async def violated_invariants(settings: Settings, *, oldest: float = 300) -> list[str]:
    """Returns the names of the violated invariants."""
    async with opened(settings) as database, database.connection() as conn:
        return [result.name for result in await check(conn, oldest=oldest) if result.violations]


def stored_comments(dsn: str, amount: int, *, name: str = "old", at: datetime = LONG_AGO) -> None:
    """Inserts comments that were stored and analysed at an earlier time, with ids of `name` and a number."""
    execute(
        dsn,
        f"""
        WITH new AS (
            INSERT INTO comments (source, comment_id, post_id, author, text, created_at)
            SELECT 'threads', '{name}' || n, 'post', 'ana', 'text', '{at.isoformat()}'
            FROM generate_series(1, {amount}) AS n RETURNING id
        )
        INSERT INTO comment_analyses (comment_id, revision, status, analyser_version) SELECT id, 1, 'done', '' FROM new
        """,  # noqa: S608 - constants
    )


def names(dsn: str) -> list[str]:
    """Returns the comments' ids, in order of arrival."""
    return [name for (name,) in execute(dsn, "SELECT comment_id FROM comments ORDER BY id")]


class Waiting(NamedTuple):
    """An outbox row."""

    id: int
    comments: list[str]
    resends: int
    failures: int
    due_in: float
    due_at: datetime


def outbox(dsn: str) -> list[Waiting]:
    """Returns all outbox rows, with the comments' ids."""
    rows = execute(
        dsn,
        "SELECT o.id, ARRAY(SELECT comment_id::text FROM comments c WHERE c.id = ANY(o.comment_ids) ORDER BY c.id),"
        " resends, failures, extract(epoch FROM due_at - now())::float, due_at FROM analysis_outbox o ORDER BY id",
    )
    return [Waiting(*row) for row in rows]


def results(dsn: str) -> dict[str, SimpleNamespace]:
    """Returns the results by the comments' ids."""
    query = "SELECT c.comment_id AS name, a.* FROM comment_analyses a JOIN comments c ON c.id = a.comment_id"
    with connected(dsn) as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(query)
        return {row["name"]: SimpleNamespace(**row) for row in cursor}


@contextmanager
def connected(dsn: str) -> Iterator[psycopg2.extensions.connection]:
    """Yields another session, in a transaction that is rolled back at the end of the block unless it is committed."""
    connection = psycopg2.connect(dsn)
    try:
        yield connection
        # The server rolls a closed connection back later, but completes an explicit rollback before it responds.
        connection.rollback()
    finally:
        connection.close()


@contextmanager
def holding(dsn: str, *statements: str) -> Iterator[psycopg2.extensions.connection]:
    """Yields another session whose open transaction has executed these statements; rolled back unless committed."""
    with connected(dsn) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        yield connection


@contextmanager
def holding_text(dsn: str, text: str) -> Iterator[None]:
    """Blocks workers before they store the result of this text: they have loaded and analysed it, and wait."""
    digest = repetition.find(read(text), {})["text_digest"]
    assert digest is not None
    with holding(dsn, f"SELECT pg_advisory_xact_lock({digest})"):
        yield


def blocked(dsn: str) -> int:
    """Returns the number of sessions of the test's database that wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ((count,),) = execute(dsn, query)
    return int(count)


def terminate_blocked(dsn: str) -> None:
    """Ends every session that waits for a lock."""
    execute(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
