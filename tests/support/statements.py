"""The statements that PostgreSQL received, from its log."""

import re
from collections.abc import Iterator
from typing import Final

from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.storage import backlog, cache_namespace, outbox, readiness, retention
from tests.conftest import execute

ENTRY: Final = re.compile(
    r"^\S+ \S+ \S+ \[(?P<pid>\d+)\] (?P<application>.*?) LOG:  (?:statement|execute [^:]*): (?P<sql>.*?)"
    r"(?=^\d{4}-\d\d-\d\d \d\d:|\Z)",
    re.MULTILINE | re.DOTALL,
)
# Statements of asyncpg when a connection returns to its pool, and for the types in use, once for each new
# connection.
NO_WORK: Final = ("pg_advisory_unlock_all", "typeinfo_tree", "set_config('jit'")
PERIODIC: Final = [
    " ".join(query.sql.split())
    for query in (
        readiness.REVISION,
        cache_namespace.NAMESPACE,
        cache_namespace.CACHE_STATE,
        outbox.OUTSTANDING,
        outbox.SWEEP,
        backlog.WAITING,
        retention.RECENT_INDEXES,
    )
]


class Statements:
    """The statements of an application on a database."""

    def __init__(self, postgres: EmbeddedPostgres, dsn: str, application: str):
        """Covers the connections opened after this call."""
        self._log = postgres.log
        self._application = application
        self._begin = self._log.stat().st_size
        ((name,),) = execute(dsn, "SELECT current_database()")
        execute(dsn, f"ALTER DATABASE {name} SET log_statement = 'all'")
        self.forget()

    def forget(self) -> None:
        """Ignores the statements so far."""
        self._from = self._log.stat().st_size

    def transactions(self) -> list[list[str]]:
        """Returns the first word of each statement, by transaction; in autocommit, each statement is a transaction.

        Excludes the statements of the periodic jobs, which no request causes, and a transaction that was open at
        `forget`, of which only the end is visible.
        """
        done: list[list[str]] = []
        open_transactions: dict[str, tuple[bool, list[str]]] = {}
        for pid, counts, sql in self._entries():
            first = _word(sql)
            if first != "BEGIN" and pid not in open_transactions:
                done += [[sql]] if counts else []
                continue
            whole, statements = open_transactions.setdefault(pid, (counts, []))
            statements.append(sql)
            if first in {"COMMIT", "ROLLBACK"}:
                del open_transactions[pid]
                done += [statements] if whole else []
        asked = [
            transaction
            for transaction in done
            if not any(periodic in sql for sql in transaction for periodic in PERIODIC)
        ]
        return [[*map(_word, transaction)] for transaction in asked]

    def _entries(self) -> Iterator[tuple[str, bool, str]]:
        """Yields the process of each statement, whether it was sent after `forget`, and the statement in one line."""
        with self._log.open("rb") as log:
            log.seek(self._begin)
            before = log.read(self._from - self._begin).decode()
            text = before + log.read().decode()
        for entry in ENTRY.finditer(text):
            sql = " ".join(entry["sql"].split())
            if entry["application"] == self._application and not any(words in sql for words in NO_WORK):
                yield entry["pid"], entry.start() >= len(before), sql


def _word(sql: str) -> str:
    return sql.split(maxsplit=1)[0].rstrip(";")
