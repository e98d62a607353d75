"""The rate at which the same PostgreSQL stores comments from a single connection: the reference of the ratios."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import uvloop

from bench.harness.comments import SOURCE, Columns

ROWS: Final = 1000
# The table as the migrations create it, all its indexes, and an update if the text differs. Only the work around it is
# left out: requests, Redis, the analysis queue and the response.
UPSERT: Final = """
    INSERT INTO comments AS c (source, comment_id, post_id, author, text, posted_at)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
    ON CONFLICT (source, comment_id) DO UPDATE SET text = excluded.text WHERE c.text IS DISTINCT FROM excluded.text
"""
STAGE: Final = """
    CREATE TEMPORARY TABLE staged (source text, comment_id text, post_id text, author text, text text,
        posted_at timestamptz) ON COMMIT DELETE ROWS
"""
UNSTAGE: Final = """
    INSERT INTO comments AS c (source, comment_id, post_id, author, text, posted_at) SELECT * FROM staged
    ON CONFLICT (source, comment_id) DO UPDATE SET text = excluded.text WHERE c.text IS DISTINCT FROM excluded.text
"""
COLUMNS: Final = ("source", "comment_id", "post_id", "author", "text", "posted_at")
Connection = Any


def upsert_rate(dsn: str, columns: Columns, *, rows: int = ROWS) -> float:
    """Returns comments per second by `unnest` upserts of `rows` comments, each upsert committed."""
    parts = [_arguments(part) for part in columns.slices(rows)]

    async def upsert(conn: Connection) -> None:
        for part in parts:
            await conn.execute(UPSERT, *part)

    return len(columns.ids) / _run(dsn, upsert)


def staged_rate(dsn: str, columns: Columns, *, rows: int) -> float:
    """Returns comments per second by COPY into a temporary table and an upsert from it, `rows` in each transaction."""
    parts = [list(zip(*_arguments(part), strict=True)) for part in columns.slices(rows)]

    async def stage(conn: Connection) -> None:
        await conn.execute(STAGE)
        for part in parts:
            async with conn.transaction():
                await conn.copy_records_to_table("staged", records=part, columns=COLUMNS)
                await conn.execute(UNSTAGE)

    return len(columns.ids) / _run(dsn, stage)


def copy_rate(dsn: str, columns: Columns) -> float:
    """Returns comments per second by COPY in one transaction: for scale, since COPY can't skip existing comments."""
    records = list(zip(*_arguments(columns), strict=True))

    async def copy(conn: Connection) -> None:
        await conn.copy_records_to_table("comments", records=records, columns=COLUMNS)

    return len(columns.ids) / _run(dsn, copy)


def _arguments(part: Columns) -> tuple[list[Any], ...]:
    return ([SOURCE] * len(part.ids), part.ids, part.posts, part.authors, part.texts, part.moments)


def _run(dsn: str, work: Callable[[Connection], Awaitable[None]]) -> float:
    """Returns the seconds that the work takes on an open connection."""

    async def timed() -> float:
        conn = await asyncpg.connect(dsn)
        try:
            started = time.perf_counter()
            await work(conn)
            return time.perf_counter() - started
        finally:
            await conn.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(timed())
