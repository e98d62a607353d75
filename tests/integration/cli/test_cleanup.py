"""`comment-monitor cleanup`, run as a process."""

import asyncio
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from tests.conftest import MakeSettings, execute, until
from tests.support import forked
from tests.support.database import (
    blocked,
    holding,
    names,
    stored_comments,
    take_in,
    terminate_blocked,
    violated_invariants,
)
from tests.support.errors import without_progress
from tests.support.requests import comment

from comment_monitor.storage.retention import BATCH, recent_index_name

RECENT = "SELECT relname FROM pg_class WHERE relkind = 'i' AND relname LIKE 'comments\\_recent\\_%'"


def begin(dsn: str, *arguments: str, **variables: str) -> forked.Popen:
    return forked.Popen(
        [sys.executable, "-m", "comment_monitor", "cleanup", *arguments],
        env={**os.environ, "POSTGRES_DSN": dsn, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def cleanup(dsn: str, *arguments: str, **variables: str) -> tuple[int | None, str, str]:
    """Returns the exit code, the output and the error output."""
    process = begin(dsn, *arguments, **variables)
    out, error = await process.ended()
    return process.returncode, out.decode(), without_progress(error.decode())


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def make_index_old(dsn: str) -> str:
    """Replaces the index of recent comments with an old index, as without a cleanup for a long time."""
    ((index,),) = execute(dsn, RECENT)
    execute(dsn, f"DROP INDEX {index}")
    execute(
        dsn,
        "CREATE INDEX comments_recent_20010101 ON comments (occurred_at DESC, id DESC)"
        " WHERE occurred_at >= '2001-01-01 00:00:00+00'",
    )
    return "comments_recent_20010101"


def result_in_use(number: int) -> str:
    """Returns a statement whose lock blocks the removal of an old comment's result."""
    comment_id = f"(SELECT id FROM comments WHERE comment_id = 'old{number}')"  # noqa: S608
    return f"SELECT FROM comment_analyses WHERE comment_id = {comment_id} FOR UPDATE"


async def test_a_dry_run_counts_the_expired_comments_and_removes_none(dsn: str) -> None:
    stored_comments(dsn, 3)
    index = make_index_old(dsn)
    before = {days_ago(365).date()}
    code, out, error = await cleanup(dsn)
    before.add(days_ago(365).date())
    assert (code, error) == (0, "")
    assert out in {f"3 comments stored before {day} would be removed (dry run; --yes removes them)\n" for day in before}
    assert len(names(dsn)) == 3
    assert execute(dsn, RECENT) == [(index,)]


async def test_yes_removes_expired_comments_and_rolls_the_index_forward(dsn: str) -> None:
    stored_comments(dsn, 2 * BATCH + 3)
    stored_comments(dsn, 1, name="younger", at=days_ago(364))
    index = make_index_old(dsn)
    today = {datetime.now(UTC).date()}
    code, out, error = await cleanup(dsn, "--yes")
    today.add(datetime.now(UTC).date())
    assert (code, error) == (0, "")
    assert names(dsn) == ["younger1"]
    ((rolled,),) = execute(dsn, RECENT)
    assert rolled in {recent_index_name(day - timedelta(days=7)) for day in today}
    assert re.fullmatch(
        rf"{2 * BATCH + 3} comments stored before \S+ removed\n"
        rf"index of recent comments: {rolled}, in place of {index}\n",
        out,
    )


async def test_a_second_run_removes_nothing(dsn: str) -> None:
    stored_comments(dsn, 3)
    days = {datetime.now(UTC).date()}
    await cleanup(dsn, "--yes")
    code, out, error = await cleanup(dsn, "--yes")
    days.add(datetime.now(UTC).date())
    assert (code, error) == (0, "")
    # Past midnight the index is replaced again, because it begins a day later.
    again = r"(, in place of \w+)?" if len(days) > 1 else ""
    assert re.fullmatch(rf"0 comments stored before \S+ removed\nindex of recent comments: \w+{again}\n", out)


async def test_the_retention_time_is_a_setting_and_an_option(dsn: str) -> None:
    for days in (1.5, 10.5, 100.5):
        stored_comments(dsn, 1, name=f"{days} d", at=days_ago(days))
    await cleanup(dsn, "--yes", COMMENT_RETENTION_DAYS="50")
    assert len(names(dsn)) == 2
    await cleanup(dsn, "--yes", "--days", "5", COMMENT_RETENTION_DAYS="50")
    assert names(dsn) == ["1.5 d1"]
    assert (await cleanup(dsn, "--yes", "--days", "0"))[0] == 2
    assert len(names(dsn)) == 1


async def test_a_second_run_completes_a_killed_cleanup(dsn: str, make_settings: MakeSettings) -> None:
    stored_comments(dsn, 4 * BATCH)
    await take_in(make_settings(), comment("new"))
    with holding(dsn, result_in_use(2 * BATCH + 500)):
        process = begin(dsn, "--yes")
        await until(lambda: blocked(dsn))
        process.kill()
        await process.ended()
        assert len(names(dsn)) == 2 * BATCH + 1
        terminate_blocked(dsn)
    code, _, _ = await cleanup(dsn, "--yes")
    assert code == 0
    assert names(dsn) == ["new"]
    assert await violated_invariants(make_settings()) == []


async def test_a_lost_database_connection_is_a_one_line_error(dsn: str) -> None:
    stored_comments(dsn, 2 * BATCH)
    with holding(dsn, result_in_use(BATCH + 500)):
        process = begin(dsn, "--yes")
        await until(lambda: blocked(dsn))
        terminate_blocked(dsn)
        out, error = await process.ended()
    assert (process.returncode, out) == (1, b"")
    assert re.fullmatch(r"Error: Cut short by the database: .+\. Run it again\.\n", without_progress(error.decode()))
    assert len(names(dsn)) == BATCH


async def test_two_cleanups_at_once_both_succeed(dsn: str) -> None:
    stored_comments(dsn, 3 * BATCH)
    make_index_old(dsn)
    ends = await asyncio.gather(*(cleanup(dsn, "--yes") for _ in range(2)))
    assert [(code, error) for code, _, error in ends] == [(0, "")] * 2
    assert names(dsn) == []
    assert len(execute(dsn, RECENT)) == 1


@pytest.mark.parametrize("arguments", [(), ("--yes",)], ids=["dry-run", "yes"])
async def test_a_database_without_tables_is_a_one_line_error(empty_dsn: str, arguments: tuple[str, ...]) -> None:
    code, out, error = await cleanup(empty_dsn, *arguments)
    assert (code, out) == (1, "")
    assert error == "Error: The database has no tables yet: run `comment-monitor migrate`.\n"
