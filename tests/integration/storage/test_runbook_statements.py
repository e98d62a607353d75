"""The SQL statements of the runbooks, run on a real database."""

import asyncio
import re
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor
from tests.conftest import MakeSettings, execute, project_root, until
from tests.support.database import outbox, take_in, violated_invariants
from tests.support.requests import comment


def statements() -> dict[str, list[str]]:
    """Returns the statements of each runbook by its name."""
    found = {}
    for path in (project_root() / "docs" / "runbooks").glob("*.md"):
        blocks = re.findall(r"^```sql\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        if blocks:
            found[path.stem] = [statement for block in blocks for statement in block.split(";") if statement.strip()]
    return found


def rows(dsn: str, statement: str) -> list[dict[str, Any]]:
    """Returns the rows of a statement as dictionaries."""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(statement)
            return [dict(row) for row in cursor.fetchall()]
    finally:
        connection.close()


def test_the_database_accepts_every_statement(dsn: str) -> None:
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


async def test_a_blocking_transaction_is_listed_with_the_sessions_that_wait(dsn: str) -> None:
    """Idle connections of a pool are not listed."""
    running, blockers = statements()["CommentDatabaseSlowQueries"]
    idle = psycopg2.connect(dsn, application_name="comment-monitor orchestrator")
    blocker = psycopg2.connect(dsn, application_name="an ad hoc report")
    victim = psycopg2.connect(dsn, application_name="comment-monitor worker")
    try:
        idle.autocommit = True
        idle.cursor().execute("SELECT 1")
        blocker.cursor().execute("LOCK TABLE comments IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(asyncio.to_thread(victim.cursor().execute, "SELECT FROM comments"))
        await until(lambda: len(rows(dsn, blockers)) == 1)
        (found,) = rows(dsn, blockers)
        assert found["blocker"] == blocker.info.backend_pid
        assert found["application_name"] == "an ad hoc report"
        assert found["state"] == "idle in transaction"
        assert found["waiting"] == [victim.info.backend_pid]
        active = {row["pid"]: row for row in rows(dsn, running)}
        assert active[victim.info.backend_pid]["wait_event_type"] == "Lock"
        assert blocker.info.backend_pid in active
        assert idle.info.backend_pid not in active
        # The statement of the runbook that ends the blocking session.
        execute(dsn, f"SELECT pg_terminate_backend({found['blocker']})")
        await waiting
        assert rows(dsn, blockers) == []
    finally:
        for connection in (idle, blocker, victim):
            connection.close()


async def test_comments_without_an_outbox_row_are_queued_again(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await take_in(settings, *(comment(number) for number in range(3)))
    execute(settings.postgres_dsn, "DELETE FROM analysis_outbox")
    assert await violated_invariants(settings) == ["analysed"]
    [statement] = statements()["CommentInvariantBroken"]
    for _ in range(2):
        execute(settings.postgres_dsn, statement)
        assert await violated_invariants(settings) == []
        assert len(outbox(settings.postgres_dsn)) == 3
