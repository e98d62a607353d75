"""The statements that PostgreSQL itself says it was sent, from its log."""

import re
from collections import defaultdict
from typing import Final

from comment_monitor import outbox, retention, schema, watch
from comment_monitor.embedded.postgres import EmbeddedPostgres
from tests.conftest import execute

ENTRY: Final = re.compile(
    r"^\S+ \S+ \S+ \[(?P<pid>\d+)\] (?P<application>.*?) LOG:  (?:statement|execute [^:]*): (?P<sql>.*?)"
    r"(?=^\d{4}-\d\d-\d\d \d\d:|\Z)",
    re.MULTILINE | re.DOTALL,
)
# What asyncpg sends when a connection goes back to its pool.
GIVEN_BACK: Final = "pg_advisory_unlock_all"
# And what it asks once about the types at hand, on each new connection.
ASKED_ONCE: Final = ("typeinfo_tree", "set_config('jit'")
CLOCKS: Final = [
    " ".join(one.sql.split())
    for one in (
        schema.REVISION,
        schema.NAMESPACE,
        outbox.OUTSTANDING,
        outbox.SWEEP,
        watch.WAITING,
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

    def visits(self) -> list[list[str]]:
        """For each time that a connection was taken from the pool, the first word of each statement.

        Without those of the clocks, which no request causes; and without one that was under way at the `forget`, of
        which only the end would be seen.
        """
        with self._log.open("rb") as log:
            log.seek(self._begin)
            before = log.read(self._from - self._begin).decode()
            text = before + log.read().decode()
        done: list[list[str]] = []
        begun_before: set[str] = set()
        under_way: defaultdict[str, list[str]] = defaultdict(list)
        for one in ENTRY.finditer(text):
            if one["application"] != self._application:
                continue
            counts = one.start() >= len(before)
            if GIVEN_BACK in one["sql"]:
                visit = under_way.pop(one["pid"], [])
                if counts and one["pid"] not in begun_before:
                    done.append(visit)
                begun_before.discard(one["pid"])
                continue
            if not counts:
                begun_before.add(one["pid"])
            if not any(words in one["sql"] for words in ASKED_ONCE):
                under_way[one["pid"]].append(" ".join(one["sql"].split()))
        asked = [visit for visit in done if not any(clock in sql for sql in visit for clock in CLOCKS)]
        return [[sql.split()[0].rstrip(";") for sql in visit] for visit in asked]
