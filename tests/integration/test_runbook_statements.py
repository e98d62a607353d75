"""The statements that runbooks tell to run on the database."""

import re

import psycopg2
from tests.conftest import MakeSettings, execute, project_root
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
