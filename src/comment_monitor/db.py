"""The PostgreSQL pool; every statement has a name and is timed by it."""

import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, NamedTuple

import asyncpg
import psycopg2.extensions

from comment_monitor import metrics
from comment_monitor.errors import ConfigurationError

# What PostgreSQL or the way to it may answer when it is not there, restarting or full.
AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
# Another transaction was in the way; the same write may succeed at once.
CONFLICT: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)

# The schema is not there, or not yet as this code knows it.
NO_SCHEMA: Final = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedObjectError)


class Query(NamedTuple):
    """A statement with the name under which it is timed."""

    name: str
    sql: LiteralString


class Connection:
    """One connection whose statements are timed by name."""

    def __init__(self, raw: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"):
        self.raw = raw

    async def fetch(self, query: Query, *args: Any) -> Sequence[asyncpg.Record]:
        """All rows."""
        started = time.perf_counter()
        try:
            return await self.raw.fetch(query.sql, *args)
        finally:
            metrics.DB_QUERY_DURATION.labels(query=query.name).observe(time.perf_counter() - started)

    async def value(self, query: Query, *args: Any) -> Any:
        """The first column of the first row; None where there is no row."""
        rows = await self.fetch(query, *args)
        return rows[0][0] if rows else None


class Database:
    """A pool of connections to one database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]"):
        self.pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit: each statement is its own transaction."""
        async with self.pool.acquire() as raw:
            yield Connection(raw)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction that commits at the end of the block."""
        async with self.pool.acquire() as raw, raw.transaction():
            yield Connection(raw)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A connection that sees the database as it is now, until the end of the block, and can't write."""
        async with self.pool.acquire() as raw, raw.transaction(isolation="repeatable_read", readonly=True):
            yield Connection(raw)

    async def close(self) -> None:
        """Closes the pool, waiting for nobody who does not give back their connection."""
        self.pool.terminate()


async def open_database(dsn: str, *, size: int, timeout: float, application: str) -> Database:  # noqa: ASYNC109
    """A pool that connects when it is first used, so that the start needs no database.

    Args:
        dsn: libpq URI or keyword string.
        size: connections at the most.
        timeout: seconds for connecting and for each statement.
        application: shown in pg_stat_activity.
    """
    pool = asyncpg.create_pool(
        **connect_arguments(dsn),
        min_size=0,
        max_size=size,
        timeout=min(timeout, 10),
        command_timeout=timeout,
        max_inactive_connection_lifetime=300,
        server_settings={
            "application_name": application,
            # A plan for the values at hand: only so can the planner prove that a query lies within the partial
            # index of recent comments.
            "plan_cache_mode": "force_custom_plan",
            "jit": "off",
            "statement_timeout": str(int(timeout * 1000)),
            "timezone": "UTC",
        },
    )
    return Database(await pool)


def connect_arguments(dsn: str) -> dict[str, Any]:
    """Asyncpg's arguments for a libpq DSN, whose dialect is wider than asyncpg's own.

    Raises:
        ConfigurationError: libpq can't read the DSN. (The message does not repeat it: it may hold a password.)
    """
    try:
        parts = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise ConfigurationError("POSTGRES_DSN=<hidden>: must be a libpq URI, postgresql://user@host/name") from None
    arguments: dict[str, Any] = {}
    for libpq, ours in (("user", "user"), ("password", "password"), ("dbname", "database"), ("passfile", "passfile")):
        if parts.get(libpq):
            arguments[ours] = parts[libpq]
    if parts.get("host"):
        arguments["host"] = parts["host"].split(",")
    if parts.get("port"):
        ports = [int(port) for port in parts["port"].split(",")]
        arguments["port"] = ports if len(ports) > 1 else ports[0]
    if parts.get("target_session_attrs"):
        arguments["target_session_attrs"] = parts["target_session_attrs"]
    if parts.get("sslmode"):
        arguments["ssl"] = _tls(parts)
    return arguments


def _tls(parts: dict[str, str]) -> ssl.SSLContext | str:
    """Libpq's sslmode: with certificates named, a context that uses them; else the mode's own word."""
    mode = parts["sslmode"]
    if mode in ("disable", "allow", "prefer") or not (parts.get("sslrootcert") or parts.get("sslcert")):
        return mode
    context = ssl.create_default_context(cafile=parts.get("sslrootcert"))
    context.check_hostname = mode == "verify-full"
    if parts.get("sslcert"):
        context.load_cert_chain(parts["sslcert"], parts.get("sslkey"), parts.get("sslpassword"))
    return context
