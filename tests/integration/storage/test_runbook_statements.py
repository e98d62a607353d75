"""The statements that runbooks tell to run on the database."""

import asyncio
import re
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor
from tests.conftest import MakeSettings, execute, project_root, until
from tests.support.database import broken_promises, outbox, take_in
from tests.support.requests import comment


def statements() -> dict[str, list[str]]:
    """By page."""
    found = {}
    for path in (project_root() / "docs" / "runbooks").glob("*.md"):
        blocks = re.findall(r"^```sql\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        if blocks:
            found[path.stem] = [one for block in blocks for one in block.split(";") if one.strip()]
    return found


def rows(dsn: str, statement: str) -> list[dict[str, Any]]:
    """What a statement finds, by column."""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(statement)
            return [dict(one) for one in cursor.fetchall()]
    finally:
        connection.close()


def test_the_database_takes_them(dsn: str) -> None:
    found = statements()
    assert {"CommentDatabaseSlowQueries", "CommentInvariantBroken"} <= set(found)
    connection = psycopg2.connect(dsn)
    try:
        for page in found.values():
            for statement in page:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
    finally:
        connection.close()


async def test_a_strangers_transaction_is_named_with_whom_it_holds_up(dsn: str) -> None:
    """And only it: of the connections that wait in a pool nothing is to be done."""
    running, blockers = statements()["CommentDatabaseSlowQueries"]
    idle = psycopg2.connect(dsn, application_name="comment-monitor orchestrator")
    stranger = psycopg2.connect(dsn, application_name="a report of somebody")
    victim = psycopg2.connect(dsn, application_name="comment-monitor worker")
    try:
        idle.autocommit = True
        idle.cursor().execute("SELECT 1")
        stranger.cursor().execute("LOCK TABLE comments IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(asyncio.to_thread(victim.cursor().execute, "SELECT FROM comments"))
        await until(lambda: len(rows(dsn, blockers)) == 1)
        (found,) = rows(dsn, blockers)
        assert found["blocker"] == stranger.info.backend_pid
        assert found["application_name"] == "a report of somebody"
        assert found["state"] == "idle in transaction"
        assert found["waiting"] == [victim.info.backend_pid]
        at_work = {one["pid"]: one for one in rows(dsn, running)}
        assert at_work[victim.info.backend_pid]["wait_event_type"] == "Lock"
        assert stranger.info.backend_pid in at_work
        assert idle.info.backend_pid not in at_work
        # As the page says to end it.
        execute(dsn, f"SELECT pg_terminate_backend({found['blocker']})")
        await waiting
        assert rows(dsn, blockers) == []
    finally:
        for one in (idle, stranger, victim):
            one.close()


async def test_comments_that_nothing_will_analyse_are_queued_anew(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, *(comment(number) for number in range(3)))
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    assert await broken_promises(settings) == ["analysed"]
    [statement] = statements()["CommentInvariantBroken"]
    for _ in range(2):
        execute(settings.postgres_dsn, statement)
        assert await broken_promises(settings) == []
        assert len(outbox(settings.postgres_dsn)) == 3
