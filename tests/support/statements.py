"""The statements that PostgreSQL itself says it was sent, from its log."""

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
# What asyncpg sends when a connection goes back to its pool, and what it asks once about the types at hand, on each new
# connection.
NO_WORK: Final = ("pg_advisory_unlock_all", "typeinfo_tree", "set_config('jit'")
CLOCKS: Final = [
    " ".join(one.sql.split())
    for one in (
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
    """What one application sends to a database."""

    def __init__(self, postgres: EmbeddedPostgres, dsn: str, application: str):
        """From the connections that it opens after this."""
        self._log = postgres.log
        self._application = application
        self._begin = self._log.stat().st_size
        ((name,),) = execute(dsn, "SELECT current_database()")
        execute(dsn, f"ALTER DATABASE {name} SET log_statement = 'all'")
        self.forget()

    def forget(self) -> None:
        """Counts from here on."""
        self._from = self._log.stat().st_size

    def transactions(self) -> list[list[str]]:
        """The first word of each statement, by transaction; one that commits itself is one of its own.

        Without those of the clocks, which no request causes; and without one that was under way at the `forget`, of
        which only the end would be seen.
        """
        done: list[list[str]] = []
        under_way: dict[str, tuple[bool, list[str]]] = {}
        for pid, counts, sql in self._entries():
            first = _word(sql)
            if first != "BEGIN" and pid not in under_way:
                done += [[sql]] if counts else []
                continue
            whole, statements = under_way.setdefault(pid, (counts, []))
            statements.append(sql)
            if first in {"COMMIT", "ROLLBACK"}:
                del under_way[pid]
                done += [statements] if whole else []
        asked = [one for one in done if not any(clock in sql for sql in one for clock in CLOCKS)]
        return [[*map(_word, one)] for one in asked]

    def _entries(self) -> Iterator[tuple[str, bool, str]]:
        """The process of each statement, whether it was sent after the `forget`, and the statement in one line."""
        with self._log.open("rb") as log:
            log.seek(self._begin)
            before = log.read(self._from - self._begin).decode()
            text = before + log.read().decode()
        for one in ENTRY.finditer(text):
            sql = " ".join(one["sql"].split())
            if one["application"] == self._application and not any(words in sql for words in NO_WORK):
                yield one["pid"], one.start() >= len(before), sql


def _word(sql: str) -> str:
    return sql.split(maxsplit=1)[0].rstrip(";")
