"""Whether the database at hand is one that this code can work on."""

import time
from contextlib import suppress
from typing import Final

import asyncpg

from comment_monitor.core.errors import DatabaseUnavailable, Problem, SchemaBehind
from comment_monitor.observability import logs
from comment_monitor.storage import cache_namespace, migrations
from comment_monitor.storage.postgres import (
    SCHEMA_MISSING_ERRORS,
    UNAVAILABLE_ERRORS,
    Connection,
    Database,
    Query,
    in_words,
    refuses_us,
)

logger = logs.get(__name__)

# Seconds between two looks.
SCHEMA_INTERVAL: Final = cache_namespace.READ_EVERY
# Without an answer for so long, the database is said not to answer; a look itself may wait for minutes.
SILENCE: Final = 5 * SCHEMA_INTERVAL

BEFORE_012: Final = frozenset({"008", "009", "010", "011"})

# The revision of the database.
REVISION: Final = Query("schema_revision", "SELECT version_num FROM comment_monitor_version")
# Where the releases before kept it, until the first migration of this one. It may also be another project's.
LEGACY_REVISION: Final = Query("schema_legacy_revision", "SELECT version_num FROM alembic_version LIMIT 2")


class DatabaseState:
    """What is known of the database's schema; looked at on a clock, asked by every request that works on it."""

    def __init__(self) -> None:
        self._usable = migrations.usable_revisions()
        self._known = migrations.known_revisions()
        self._head = migrations.head()
        self.revision: str | None = None
        # The prefix in Redis, and until when (of `time.monotonic`) it may be gone by.
        self.namespace: bytes | None = None
        self.namespace_until = 0.0
        self._looked = False
        self._answered = time.monotonic()
        self._told: str | None = None
        # Whether no migration of this release is missing; None: the database could not be asked.
        self.at_head: bool | None = None
        # A standby, or what an operator or a full disk made so: reads go on.
        self.read_only = False
        # Whether the database has let this process in at any time, and whether it refuses what this process was given:
        # as the latest look found it, also while the next one is under way.
        self._let_in = False
        self._refused = False
        self.problem: Problem | None = DatabaseUnavailable("The database has not been reached yet.")

    def describe(self) -> str:
        """The database's revision; beside it this release's where that is not there yet."""
        if self.revision and self.at_head is False:
            return f"{self.revision}, and not yet {self._head}"
        return self.revision or "unknown"

    def stalled_for(self) -> str | None:
        """What is wrong where a look has been under way for long; it may be the only one that waits."""
        seconds = time.monotonic() - self._answered
        return f"The database has not answered for {seconds:.0f} s." if seconds > SILENCE else None

    @property
    def is_closed_to_us(self) -> bool:
        """Whether the database refuses what this process was given, and has never let it in."""
        return self._refused and not self._let_in

    @property
    def before_009(self) -> bool:
        """Whether the schema is that of the release before: work goes on, without what the migration brings."""
        return self.revision == "008"

    @property
    def before_012(self) -> bool:
        """Whether the schema lacks the tables of revision 012."""
        return self.revision in BEFORE_012

    def require(self) -> None:
        """Raises SchemaBehind or DatabaseUnavailable where work can't be done now."""
        if self.problem:
            raise self.problem.again()

    def require_writes(self) -> None:
        """Raises as `require`, and where the database takes no writes."""
        self.require()
        if self.read_only:
            raise DatabaseUnavailable("The database takes no writes: it is read-only. Repeat the request later.")

    async def refresh(self, database: Database) -> None:
        """Asks the database; never raises for a database that is away. A change is logged, but for the first look.

        A command that can't begin says so itself; a service looks again, and logs what it still finds.
        """
        await self._find_out(database)
        self._answered = time.monotonic()
        now = self.problem.slug if self.problem else None
        first, self._looked = not self._looked, True
        if first:
            return
        was, self._told = self._told, now
        if self.problem and now != was:
            # The detail is in our own words.
            logger.warning("database_not_usable", problem=now, detail=self.problem.detail)
        elif was and not now:
            logger.info("database_usable", revision=self.revision)

    async def _find_out(self, database: Database) -> None:
        refused = False
        try:
            async with database.connection() as conn:
                self._let_in = True
                await self._read(conn)
        except SCHEMA_MISSING_ERRORS:
            self._go_by(None, time.monotonic())
            # That of a database which was here before says nothing of this one.
            self.revision = None
            self.at_head = False
            self.problem = SchemaBehind("The database has no tables yet: run `comment-monitor migrate`.")
        except UNAVAILABLE_ERRORS as error:
            # It may have changed by now, and an entry under the old one proves nothing.
            self._go_by(None, time.monotonic())
            self.at_head = None
            refused = refuses_us(error)
            self.problem = DatabaseUnavailable(f"The database can't be used: {in_words(error)}.")
        self._refused = refused

    async def _read(self, conn: Connection) -> None:
        self.revision = await self._read_revision(conn)
        # A revision unknown here was made by a later release, which keeps it working for this one.
        later = self.revision is not None and self.revision not in self._known
        self.at_head = later or self.revision == self._head
        if later or self.revision in self._usable:
            asked = time.monotonic()
            namespace, self.read_only = await cache_namespace.read(conn, before_012=self.before_012)
            self._go_by(namespace, asked)
            self.problem = None
        else:
            self._go_by(None, time.monotonic())
            behind = f"is at revision {self.revision}, older than {migrations.OLDEST_USABLE}"
            self.problem = SchemaBehind(
                f"The database {behind if self.revision else 'has no tables yet'}: run `comment-monitor migrate`."
            )

    async def _read_revision(self, conn: Connection) -> str | None:
        try:
            revision: str | None = await conn.value(REVISION)
        except asyncpg.UndefinedTableError:
            with suppress(asyncpg.InsufficientPrivilegeError):
                rows = await conn.fetch(LEGACY_REVISION)
                if len(rows) == 1 and rows[0][0] in self._known:
                    return str(rows[0][0])
            return None
        return revision

    def _go_by(self, namespace: bytes | None, asked: float) -> None:
        self.namespace, self.namespace_until = namespace, asked + cache_namespace.LEASE
