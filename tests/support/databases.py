"""Migrated databases for the tests, used again after a test that left the catalog unchanged.

A new database costs a quarter of a second of CPU time, and each first connection to it some more; emptying its tables
costs a fifth of that.
"""

import io
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg2
import psycopg2.extensions

from comment_monitor.devserver.postgres_process import EmbeddedPostgres

# A row that was changed or added has another xmin. Statistics of a column count as a change: they change plans.
CATALOGS: Final = (
    "pg_attrdef", "pg_attribute", "pg_class", "pg_collation", "pg_constraint", "pg_default_acl", "pg_event_trigger",
    "pg_extension", "pg_index", "pg_inherits", "pg_init_privs", "pg_language", "pg_namespace", "pg_policy", "pg_proc",
    "pg_publication", "pg_rewrite", "pg_sequence", "pg_statistic", "pg_statistic_ext", "pg_subscription", "pg_trigger",
    "pg_type",
)  # fmt: skip
# Catalogs of the whole server: only this database's row and the settings.
SHARED: Final = ("pg_database WHERE datname = current_database()", "pg_db_role_setting")
STATE: Final = " UNION ALL ".join(
    f"SELECT count(*), sum(xmin::text::bigint) FROM {name}"  # noqa: S608
    for name in (*CATALOGS, *SHARED)
)
TABLES: Final = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
END_OTHERS: Final = """
    SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
State = list[tuple[Any, ...]]


class Databases:
    """The databases of one server; not for several threads.

    Args:
        server: the server.
        template: the name of a migrated database.
    """

    def __init__(self, server: EmbeddedPostgres, template: str):
        self._server = server
        self._template = template
        self._numbers = itertools.count()
        # Unused databases by name, and those in use: the state of the catalog.
        self._unused: dict[str, State] = {}
        self._used: dict[str, State] = {}
        self._tables, self._rows = self._contents()

    def _contents(self) -> tuple[list[str], dict[str, str]]:
        """Returns the tables, and the rows that the migrations wrote, by table."""
        rows = {}
        with _cursor(self._dsn(self._template)) as cursor:
            cursor.execute(TABLES)
            tables = [name for (name,) in cursor.fetchall()]
            for table in tables:
                text = io.StringIO()
                cursor.copy_expert(f"COPY {table} TO STDOUT", text)
                if text.getvalue():
                    rows[table] = text.getvalue()
        return tables, rows

    def take(self) -> str:
        """Returns the DSN of a database that holds only what the migrations wrote."""
        if not self._unused:
            name = f"test_{os.getpid()}_{next(self._numbers)}"
            with _cursor(self._server.dsn) as cursor:
                cursor.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
            with _cursor(self._dsn(name)) as cursor:
                self._unused[name] = _state(cursor)
        name, self._used[name] = self._unused.popitem()
        return self._dsn(name)

    def give_back(self, dsn: str) -> None:
        """Empties the database for another test, or drops it if the test changed more than rows."""
        name = psycopg2.extensions.parse_dsn(dsn)["dbname"]
        before = self._used.pop(name)
        try:
            with _cursor(dsn) as cursor:
                if _state(cursor) == before:
                    self._empty(cursor)
                    self._unused[name] = _state(cursor)
                    return
        except psycopg2.OperationalError:
            # The test closed the database for connections, or a table for this one.
            pass
        with _cursor(self._server.dsn) as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _empty(self, cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute(END_OTHERS)
        cursor.execute(f"TRUNCATE {', '.join(self._tables)} RESTART IDENTITY")
        for table, rows in self._rows.items():
            cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(rows))

    def _dsn(self, name: str) -> str:
        return psycopg2.extensions.make_dsn(self._server.dsn, dbname=name)


def _state(cursor: psycopg2.extensions.cursor) -> State:
    cursor.execute(STATE)
    return cursor.fetchall()


@contextmanager
def _cursor(dsn: str) -> Iterator[psycopg2.extensions.cursor]:
    """Yields a cursor of a new connection in autocommit."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '10s'")
            yield cursor
    finally:
        connection.close()
