"""Storing and finding duplicates with 10,000,000 comments in the table, beside an empty table; and reading pages."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from bench.harness.claim import Row, Tools
from bench.harness.comments import Columns, make_bodies, make_columns
from bench.harness.load import send
from bench.harness.run import alone
from bench.harness.system import System

ROWS: Final = 10_000_000
COMMENTS: Final = 100_000
SIZE: Final = 25
CONNECTIONS: Final = 64
PAGE: Final = 50
THOUSANDTH: Final = 1000
READS: Final = 200
POSTS: Final = 100_000
AUTHORS: Final = 1_000_000
BEGIN: Final = datetime.now(UTC)

NEWEST: Final = f"id > (SELECT max(id) FROM comments) - {COMMENTS}"  # noqa: S608 - a number of this file

# Spread over a year; one post and one author have far more comments than the others. The indexes are created
# afterwards: the full table is measured, not its filling.
FILL: Final = f"""
    INSERT INTO comments (source, comment_id, post_id, author, text, posted_at, created_at)
    SELECT 'threads', md5(n::text), CASE WHEN n % 100 = 0 THEN 'busy' ELSE 'old-' || n % {POSTS} END,
        CASE WHEN n % 100 = 1 THEN 'busy' ELSE 'author' || n % {AUTHORS} END,
        repeat('word ', 5 + (n % 20)::int) || n, moment, moment
    FROM (SELECT n, now() - interval '365 days' * ((n * 7919 % {ROWS})::float8 / {ROWS}) AS moment
          FROM generate_series(1::bigint, {ROWS}) AS n) AS made
"""  # noqa: S608 - numbers of this file
# Pages as full as inserts in random order leave them. A freshly built index has no free space in its pages, so the rate
# of its first hour is not representative.
IDENTITY: Final = (
    "ALTER TABLE comments ADD CONSTRAINT comments_identity UNIQUE (source, comment_id) WITH (fillfactor = 70)"
)


def measure(tools: Tools) -> list[Row]:
    """Measures rounds on an empty table, then on a full table, which keeps the comments of the rounds before."""
    system = tools.system
    empty, full, known, newest, anywhere = [], [], [], [], []
    with system.serving() as (url, _):
        for number in range(tools.rounds):
            system.forget()
            empty.append(_rate(url, 20 + number))
            known.append(_duplicates(system, url, NEWEST))
            tools.say(f"{empty[-1]:,.0f} comments/s into an empty table, {known[-1]:,.0f} duplicates/s")
        system.forget()
        fill(system, tools)
        for number in range(tools.rounds):
            full.append(_rate(url, 30 + number))
            newest.append(_duplicates(system, url, NEWEST))
            # From the whole table, other comments in each round.
            anywhere.append(_duplicates(system, url, f"id % {ROWS // COMMENTS} = {number}"))
            tools.say(
                f"{full[-1]:,.0f} comments/s into a full one, {newest[-1]:,.0f} and {anywhere[-1]:,.0f} duplicates/s"
            )
        pages = asyncio.run(_read(url, tools))
    system.forget()
    return [
        Row(
            work=f"25 a request with {ROWS:,} comments in the table",
            unit="comments/s",
            ours=full,
            beside=empty,
            beside_what="none in it",
            floor=0.70,
        ),
        *(
            Row(
                work=f"duplicates that Redis forgot, {which} of {ROWS:,} in the table",
                unit="comments/s",
                ours=rates,
                beside=known,
                beside_what=f"of {COMMENTS:,}",
                floor=floor,
            )
            for which, rates, floor in (("the newest", newest, 0.80), ("any", anywhere, None))
        ),
        *(Row(work=f"GET /comments {name}: p95", unit="ms", ours=[p95], floor=10, most=True) for name, p95 in pages),
    ]


def fill(system: System, tools: Tools) -> None:
    """Fills the table."""
    tools.say(f"making {ROWS:,} rows")
    indexes = system.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'comments' "
        "AND indexname NOT IN ('comments_pkey', 'comments_identity')"
    )
    for name, _ in indexes:
        system.execute(f"DROP INDEX {name}")
    system.execute("ALTER TABLE comments DROP CONSTRAINT comments_identity")
    system.execute(FILL)
    for definition in (IDENTITY, *(str(created) for _, created in indexes)):
        system.execute(f"SET maintenance_work_mem = '1GB'; {definition}")
    tools.say("indexed; vacuuming")
    system.execute("VACUUM ANALYZE comments")
    system.execute("CHECKPOINT")


def _rate(url: str, run: int) -> float:
    return send(url, make_bodies(make_columns(COMMENTS, run=run), SIZE), connections=CONNECTIONS).rate


def _duplicates(system: System, url: str, which: str) -> float:
    """Returns comments per second for comments that are stored, but unknown to Redis."""
    system.forget_cache()
    rows = system.execute(
        f"SELECT comment_id, post_id, author, text, posted_at FROM comments WHERE {which} LIMIT {COMMENTS}"  # noqa: S608
    )
    columns = Columns(*(list(column) for column in zip(*rows, strict=True)))
    outcome = send(url, make_bodies(columns, SIZE), connections=CONNECTIONS)
    if outcome.stored or not outcome.duplicates:
        raise RuntimeError(f"{outcome.stored} duplicates were stored.")
    return outcome.rate


async def _read(url: str, tools: Tools) -> list[tuple[str, float]]:
    """Returns the name of each kind of page and its p95 in milliseconds. No page is read twice."""
    result = []
    ends = [BEGIN - timedelta(days=number % 300) for number in range(READS)]
    firsts = {
        "by post": [f"post_id=old-{number}" for number in range(1, 2 * READS) if number % 100][:READS],
        "by author": [f"author=author{number}" for number in range(2, 2 * READS) if number % 100 != 1][:READS],
        "by time range": [f"since={_iso(end - timedelta(days=30))}&until={_iso(end)}" for end in ends],
    }
    deep = {"by post": "post_id=busy", "by author": "author=busy", "by time range": f"until={_iso(BEGIN)}"}
    async with aiohttp.ClientSession(url) as session:
        for name, queries in firsts.items():
            first = await _p95(session, [f"/comments?{query}&limit={PAGE}" for query in (deep[name], *queries)])
            cursors = await _cursors(session, deep[name])
            far = [f"/comments?{deep[name]}&limit={PAGE}&cursor={quote(cursor)}" for cursor in cursors[-READS:]]
            last = await _p95(session, far)
            result += [(f"{name}, first page", first), (f"{name}, pages up to {len(cursors) + 1:,}", last)]
            tools.say(f"{name}: {first:.1f} ms, far down {last:.1f} ms")
    return result


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


async def _cursors(session: aiohttp.ClientSession, query: str) -> list[str]:
    """Returns the cursors of the pages up to the thousandth."""
    cursors: list[str] = []
    path = f"/comments?{query}&limit={PAGE}"
    while len(cursors) < THOUSANDTH - 1:
        page = await _get(session, path + (f"&cursor={quote(cursors[-1])}" if cursors else ""))
        cursors.append(page["next_cursor"])
    return cursors


async def _p95(session: aiohttp.ClientSession, paths: Sequence[str]) -> float:
    seconds = []
    for path in paths:
        started = time.perf_counter()
        await _get(session, path)
        seconds.append(time.perf_counter() - started)
    return quantiles(seconds, n=100)[94] * 1000


async def _get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        response.raise_for_status()
        return await response.json()


if __name__ == "__main__":
    alone(measure)
