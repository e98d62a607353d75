"""The databases that tests share: what one test left must not reach the next."""

import psycopg2
import pytest
from tests.conftest import execute
from tests.support.database import take_in
from tests.support.databases import Databases
from tests.support.requests import comment

from comment_monitor.core import config
from comment_monitor.devserver.postgres_process import EmbeddedPostgres

FIRST = "INSERT INTO analysis_outbox (comment_ids, due_at) VALUES ('{1}', now()) RETURNING id"


async def test_a_database_with_other_rows_is_emptied_and_used_again(databases: Databases, redis_url: str) -> None:
    taken = databases.take()
    before = execute(taken, "SELECT * FROM installation")
    settings = config.load({"POSTGRES_DSN": taken, "REDIS_URL": redis_url})
    await take_in(settings, comment(1), comment(2))
    execute(taken, "DELETE FROM installation")
    open_one = psycopg2.connect(taken)
    databases.give_back(taken)
    assert databases.take() == taken
    assert execute(taken, "SELECT * FROM installation") == before
    assert execute(taken, "SELECT count(*) FROM analysis_outbox") == [(0,)]
    assert execute(taken, "SELECT count(*) FROM comments") == [(0,)]
    assert execute(taken, FIRST) == [(1,)]
    with pytest.raises(psycopg2.OperationalError), open_one.cursor() as cursor:
        cursor.execute("SELECT 1")
    open_one.close()
    databases.give_back(taken)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE invariant_checks",
        "CREATE INDEX ON comments (text)",
        "ALTER TABLE comments ALTER text SET STATISTICS 5",
        "ALTER TABLE comments DISABLE TRIGGER ALL",
        "CREATE OR REPLACE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "REVOKE ALL ON comments FROM PUBLIC; GRANT SELECT ON comments TO PUBLIC",
        "ALTER DATABASE {name} SET work_mem = '1MB'",
        "ALTER DATABASE {name} CONNECTION LIMIT 50",
        "INSERT INTO unannounced_edits SELECT; ANALYZE",
        "CREATE SCHEMA mine",
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false",
    ],
)
def test_a_database_with_another_catalog_is_dropped(
    postgres: EmbeddedPostgres, databases: Databases, change: str
) -> None:
    taken = databases.take()
    name = taken.rsplit("dbname=", 1)[-1].split()[0]
    for statement in change.format(name=name).split("; "):
        # A database can't be closed for connections by its own connection.
        execute(postgres.dsn if statement.startswith("ALTER DATABASE") else taken, statement)
    databases.give_back(taken)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(taken)
