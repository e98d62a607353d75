"""The cost of an outbox row: with no batch waiting for analysis, and with batches of 10,000,000 comments waiting."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from bench.harness.claim import MICROSECONDS, Row, Tools
from bench.harness.comments import SOURCE, Columns, make_columns
from bench.harness.run import alone
from bench.harness.system import System
from comment_monitor.analysis.engine import VERSION, analyse_all
from comment_monitor.core.model import Analysis, Comment, Failure
from comment_monitor.maintenance.scheduler import SWEEP_BATCH
from comment_monitor.storage import analyses, outbox
from comment_monitor.storage import comments as stored
from comment_monitor.storage.postgres import Database, open_database

COMMENTS: Final = 10_000
TOGETHER: Final = 250
BATCH: Final = 25
WAITING: Final = 400_000
SWEEPS: Final = 10
RESEND_AFTER: Final = 60.0
# Batches of comments that do not exist: nothing in this script reads them.
FILL: Final = """
    INSERT INTO analysis_outbox (comment_ids, due_at)
    SELECT ARRAY(SELECT generate_series(number * 25, number * 25 + 24)), now() + make_interval(secs => {due})
    FROM generate_series(1000000000001, 1000000000000 + {rows}) AS number
"""
Findings = Sequence[Analysis | Failure]


def measure(tools: Tools) -> list[Row]:
    """Measures without waiting batches and with all of them, alternately."""
    columns = make_columns(COMMENTS, run=18)
    findings = list(analyse_all(columns.texts))
    path: tuple[list[float], list[float]] = ([], [])
    sweep: tuple[list[float], list[float]] = ([], [])
    for _ in range(tools.rounds):
        for at, waiting in enumerate((0, WAITING)):
            _fill(tools.system, waiting, due=86_400)
            path[at].append(asyncio.run(_path(tools.system.dsn, columns, findings)))
            _fill(tools.system, max(waiting, SWEEP_BATCH * SWEEPS), due=-60)
            sweep[at].append(asyncio.run(_sweep(tools.system.dsn)))
        tools.say(
            f"{path[0][-1]:.1f} and {path[1][-1]:.1f} us a comment, swept {sweep[0][-1]:.2f} and {sweep[1][-1]:.2f}"
        )
    beside_what, most = "none waiting", f"{WAITING * BATCH:,} comments waiting"
    return [
        Row(
            work=f"PostgreSQL's part of a comment's way, stored to analysed, {most}", unit=MICROSECONDS, ours=path[1],
            beside=path[0], beside_what=beside_what, floor=1.25, most=True,
        ),
        Row(
            work=f"sending again, {most}", unit=MICROSECONDS, ours=sweep[1], beside=sweep[0], beside_what="few waiting",
            floor=1.25, most=True,
        ),
    ]  # fmt: skip


def _fill(system: System, rows: int, *, due: int) -> None:
    system.forget()
    system.execute(FILL.format(rows=rows, due=due))
    system.execute("VACUUM ANALYZE analysis_outbox")
    system.execute("CHECKPOINT")


async def _path(dsn: str, columns: Columns, findings: Findings) -> float:
    """Returns microseconds per comment to write it with its outbox row, load it and save its result."""
    database = await _open(dsn)
    try:
        # Warms up the connection and its plans.
        await _through(database, columns, slice(0, TOGETHER), findings)
        started = time.perf_counter()
        for at in range(TOGETHER, COMMENTS, TOGETHER):
            await _through(database, columns, slice(at, at + TOGETHER), findings)
        return (time.perf_counter() - started) / (COMMENTS - TOGETHER) * 1e6
    finally:
        await database.close()


async def _through(database: Database, columns: Columns, part: slice, findings: Findings) -> None:
    fields = zip(*(column[part] for column in columns), strict=True)
    comments = sorted(
        (
            Comment(source=SOURCE, post_id=post, id=id_, text=text, author=author, timestamp=moment)
            for id_, post, author, text, moment in fields
        ),
        key=lambda comment: comment.key,
    )
    async with database.transaction() as conn:
        written = await stored.write(conn, comments, batch_size=BATCH, resend_after=RESEND_AFTER)
    async with database.connection() as conn:
        loaded = await outbox.load_batches(conn, written.outbox)
    done = [(id_, revision) for batch in loaded for id_, revision, _ in batch.comments]
    results = [(id_, revision, found) for (id_, revision), found in zip(done, findings[part], strict=True)]
    async with database.transaction() as conn:
        await analyses.save_results(conn, written.outbox, results, VERSION)


async def _sweep(dsn: str) -> float:
    """Returns microseconds per comment that the sweep takes to resend."""
    database = await _open(dsn)
    try:
        started = time.perf_counter()
        for _ in range(SWEEPS):
            async with database.transaction() as conn:
                rows = await conn.fetch(outbox.SWEEP, SWEEP_BATCH, RESEND_AFTER, 2.0)
            if len(rows) != SWEEP_BATCH:
                raise RuntimeError(f"{len(rows)} of {SWEEP_BATCH} rows were taken.")
        return (time.perf_counter() - started) / (SWEEPS * SWEEP_BATCH * BATCH) * 1e6
    finally:
        await database.close()


async def _open(dsn: str) -> Database:
    return await open_database(dsn, size=1, timeout=60, application="bench")


if __name__ == "__main__":
    alone(measure)
