"""Checks whether this code can work on the database."""

import time
from contextlib import suppress
from typing import Final

import asyncpg

from comment_monitor.core.errors import DatabaseUnavailable, Problem, SchemaBehind
from comment_monitor.observability import logs
from comment_monitor.storage import cache_namespace, revisions
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

# Seconds between two probes.
SCHEMA_INTERVAL: Final = cache_namespace.READ_EVERY
# Seconds without an answer after which the database counts as not answering; a probe alone may wait for minutes.
SILENCE: Final = 5 * SCHEMA_INTERVAL

BEFORE_012: Final = frozenset({"008", "009", "010", "011"})

# The revision of the database.
REVISION: Final = Query("schema_revision", "SELECT version_num FROM comment_monitor_version")
# The table of earlier releases, until the first migration of this release. It may also be another project's table.
LEGACY_REVISION: Final = Query("schema_legacy_revision", "SELECT version_num FROM alembic_version LIMIT 2")


class DatabaseState:
    """The last known state of the database, refreshed periodically and read by every request that needs it."""

    def __init__(self) -> None:
        self.revision: str | None = None
        # The prefix of the keys in Redis, and until when (`time.monotonic`) it may be used.
        self.namespace: bytes | None = None
        self.namespace_until = 0.0
        self._refreshed = False
        self._answered = time.monotonic()
        self._logged: str | None = None
        # Whether all migrations of this release have run; None: unknown, the database could not be asked.
        self.at_head: bool | None = None
        # Whether the database is read-only: a standby, or made so by an operator or a full disk. Reads go on.
        self.read_only = False
        # Whether this process could ever connect, and whether the latest finished probe found that the database rejects
        # the connection settings.
        self._let_in = False
        self._refused = False
        self.problem: Problem | None = DatabaseUnavailable("The database has not been reached yet.")

    def describe(self) -> str:
        """Returns the database's revision, and this release's revision where that is not reached yet."""
        if self.revision and self.at_head is False:
            return f"{self.revision}, and not yet {revisions.HEAD}"
        return self.revision or "unknown"

    def stalled_for(self) -> str | None:
        """Returns a message if the database has not answered a probe for longer than SILENCE; otherwise None."""
        seconds = time.monotonic() - self._answered
        return f"The database has not answered for {seconds:.0f} s." if seconds > SILENCE else None

    @property
    def is_closed_to_us(self) -> bool:
        """Whether the database rejects the connection settings, and this process has never connected."""
        return self._refused and not self._let_in

    @property
    def before_009(self) -> bool:
        """Whether the schema is that of revision 008: work goes on, without the features of revision 009."""
        return self.revision == "008"

    @property
    def before_012(self) -> bool:
        """Whether the schema lacks the tables of revision 012."""
        return self.revision in BEFORE_012

    def require(self) -> None:
        """Raises SchemaBehind or DatabaseUnavailable while the database can't be used."""
        if self.problem:
            raise self.problem.again()

    def require_writes(self) -> None:
        """Raises as `require` does, and DatabaseUnavailable while the database is read-only."""
        self.require()
        if self.read_only:
            raise DatabaseUnavailable("The database takes no writes: it is read-only. Repeat the request later.")

    async def refresh(self, database: Database) -> None:
        """Probes the database; does not raise if it is unavailable. Logs a change, except at the first probe.

        A command that can't begin reports that itself; a service probes again, and logs the problem then.
        """
        await self._probe(database)
        self._answered = time.monotonic()
        now = self.problem.slug if self.problem else None
        first, self._refreshed = not self._refreshed, True
        if first:
            return
        was, self._logged = self._logged, now
        if self.problem and now != was:
            # The detail is this program's own text, so it has no confidential data.
            logger.warning("database_not_usable", problem=now, detail=self.problem.detail)
        elif was and not now:
            logger.info("database_usable", revision=self.revision)

    async def _probe(self, database: Database) -> None:
        refused = False
        try:
            async with database.connection() as conn:
                self._let_in = True
                await self._read(conn)
        except SCHEMA_MISSING_ERRORS:
            self._use_namespace(None, time.monotonic())
            # The revision of an earlier database at this address does not apply to this one.
            self.revision = None
            self.at_head = False
            self.problem = SchemaBehind("The database has no tables yet: run `comment-monitor migrate`.")
        except UNAVAILABLE_ERRORS as error:
            # The prefix may have changed meanwhile, and entries under the old prefix prove nothing.
            self._use_namespace(None, time.monotonic())
            self.at_head = None
            refused = refuses_us(error)
            self.problem = DatabaseUnavailable(f"The database can't be used: {in_words(error)}.")
        self._refused = refused

    async def _read(self, conn: Connection) -> None:
        self.revision = await self._read_revision(conn)
        # An unknown revision is of a later release, which keeps its schema usable for this release.
        later = self.revision is not None and self.revision not in revisions.KNOWN
        self.at_head = later or self.revision == revisions.HEAD
        if later or self.revision in revisions.USABLE:
            asked = time.monotonic()
            namespace, self.read_only = await cache_namespace.read(conn, before_012=self.before_012)
            self._use_namespace(namespace, asked)
            self.problem = None
        else:
            self._use_namespace(None, time.monotonic())
            behind = f"is at revision {self.revision}, older than {revisions.OLDEST_USABLE}"
            self.problem = SchemaBehind(
                f"The database {behind if self.revision else 'has no tables yet'}: run `comment-monitor migrate`."
            )

    async def _read_revision(self, conn: Connection) -> str | None:
        try:
            revision: str | None = await conn.value(REVISION)
        except asyncpg.UndefinedTableError:
            with suppress(asyncpg.InsufficientPrivilegeError):
                rows = await conn.fetch(LEGACY_REVISION)
                if len(rows) == 1 and rows[0][0] in revisions.KNOWN:
                    return str(rows[0][0])
            return None
        return revision

    def _use_namespace(self, namespace: bytes | None, asked: float) -> None:
        self.namespace, self.namespace_until = namespace, asked + cache_namespace.LEASE
