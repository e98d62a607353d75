"""The PostgreSQL pool. Every statement has a name, under which its duration is recorded."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, LiteralString, NamedTuple

import asyncpg

from comment_monitor.core.dsn import Address, read_dsn
from comment_monitor.core.errors import ConfigurationError, DatabaseUnavailable
from comment_monitor.observability import logs, metrics, tracing
from comment_monitor.storage.connecting import ConnectTimeoutError, SessionRefusedError, connect, timeout_of

logger = logs.get(__name__)

# The server is available but denies access, to everybody or to this user, for example while a backup is restored.
REFUSED_ERRORS: Final = (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InsufficientPrivilegeError)
# Errors of PostgreSQL or of the network while it is unavailable, restarting, full or closed.
UNAVAILABLE_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # asyncpg raises it for a statement on a connection that the server has just closed.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The server's files are missing, or can't be read or written.
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    *REFUSED_ERRORS,
)
# The server answers but accepts no writes; a probe, which only reads, succeeds.
REFUSES_WRITES: Final = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    *REFUSED_ERRORS,
)
# The connection settings of this process are wrong, and waiting does not help.
REFUSES_US: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    SessionRefusedError,
    ssl.SSLCertVerificationError,
)
# A conflict with another transaction; an immediate retry may succeed.
CONFLICT_ERRORS: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)

# The schema is missing, or is not migrated to the state that this code needs.
SCHEMA_MISSING_ERRORS: Final = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedObjectError)

# Errors for a comment that PostgreSQL can never store as it is.
NOT_STORABLE_ERRORS: Final = (asyncpg.DataError, asyncpg.StatementTooComplexError, asyncpg.ProgramLimitExceededError)

Record = asyncpg.Record

# The text for each error; the first match is used.
WORDS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]] = (
    (asyncpg.InvalidCatalogNameError, "the server has no such database"),
    (asyncpg.InvalidAuthorizationSpecificationError, "the server refuses the user or the password"),
    (socket.gaierror, "the host's name is not known"),
    (ssl.SSLCertVerificationError, "its certificate is not from a trusted authority, or is for another host"),
    (ssl.SSLError, "it does not support the TLS that was requested"),
    ((TimeoutError, ConnectTimeoutError), "it did not answer in time"),
    (SessionRefusedError, "it refuses the `options` of POSTGRES_DSN"),
    (asyncpg.TargetServerAttributeNotMatched, "no host satisfies `target_session_attrs`"),
    # Must precede REFUSED_ERRORS, which has a base class of one of them.
    (CONFLICT_ERRORS, "{}"),
    (asyncpg.ReadOnlySQLTransactionError, "it takes no writes: it is read-only"),
    (asyncpg.DiskFullError, "it takes no writes: its disk is full"),
    (asyncpg.PostgresSystemError, "it can't use its files ({})"),
    (REFUSED_ERRORS, "the server does not permit it ({})"),
    (UNAVAILABLE_ERRORS, "it ended the connection ({})"),
)

CLOSE_TIMEOUT: Final = 2.0


def in_words(error: BaseException) -> str:
    """Returns why PostgreSQL could not be used, without the server's message, which may contain confidential data."""
    # gaierror and SSLError have numbers of their own, which are no system error numbers.
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno).lower()
    words = next((words for kinds, words in WORDS if isinstance(error, kinds)), "{}")
    return words.format(type(error).__name__)


def refuses_us(error: BaseException) -> bool:
    """Whether the error is a wrong connection setting: login, database, options, certificate or host name.

    An outage does not count, nor does a resolver that does not answer.
    """
    return isinstance(error, REFUSES_US) or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME)


def _options(address: Address) -> dict[str, str]:
    """Returns the `options` of the DSN as a server setting; the other server settings take precedence."""
    return {"options": address.options} if address.options else {}


async def require_login(dsn: str, *, timeout: float, application: str) -> None:  # noqa: ASYNC109
    """Connects once, for a process that would otherwise notice wrong connection settings only at its first task.

    An unavailable database is only logged, because it may become available later.

    Args:
        dsn: libpq URI or keyword string.
        timeout: seconds for the connection.
        application: shown in pg_stat_activity.

    Raises:
        ConfigurationError: the database rejects the DSN's settings.
    """
    address = read_dsn(dsn)
    try:
        connection = await connect(
            address,
            timeout=timeout_of(address, timeout),
            server_settings={**_options(address), "application_name": application},
        )
        await connection.close(timeout=CLOSE_TIMEOUT)
    except UNAVAILABLE_ERRORS as error:
        if refuses_us(error):
            raise ConfigurationError(f"POSTGRES_DSN=<hidden>: the database can't be used: {in_words(error)}.") from None
        detail = f"The database can't be used: {in_words(error)}."
        logger.warning("database_not_usable", problem=DatabaseUnavailable.slug, detail=detail)


class Query(NamedTuple):
    """A statement, and the name under which its duration is recorded."""

    name: str
    sql: LiteralString


class Connection:
    """A connection that records the duration of its statements by name."""

    def __init__(self, raw: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"):
        self.raw = raw

    async def fetch(self, query: Query, *args: Any) -> Sequence[asyncpg.Record]:
        """Returns all rows."""
        started = time.perf_counter()
        try:
            with tracing.query(query.name):
                return await self.raw.fetch(query.sql, *args)
        finally:
            metrics.DB_QUERY_DURATION.labels(query=query.name).observe(time.perf_counter() - started)

    async def value(self, query: Query, *args: Any) -> Any:
        """Returns the first column of the first row; None where there is no row."""
        rows = await self.fetch(query, *args)
        return rows[0][0] if rows else None


class Database:
    """A pool of connections to one database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]"):
        self.pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yields a connection in autocommit: each statement is its own transaction."""
        async with self.pool.acquire() as raw:
            yield Connection(raw)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yields a connection in a transaction that commits at the end of the block."""
        async with self.pool.acquire() as raw, raw.transaction():
            yield Connection(raw)

    async def close(self) -> None:
        """Closes the pool; terminates the connections that are not released within CLOSE_TIMEOUT."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.pool.close()
        except (TimeoutError, *UNAVAILABLE_ERRORS):
            self.pool.terminate()


# A new plan for each set of values: only then can the planner prove that the partial index of recent comments covers a
# query.
CUSTOM_PLANS: Final = {"plan_cache_mode": "force_custom_plan"}
# One plan for all values, because planning is a third of the time of a small write. The table may be empty when the
# plan is made, so sequential scans are disabled: every row is found by an index.
GENERIC_PLANS: Final = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}


async def _no_reset(_: Any) -> None:
    """Does nothing: asyncpg itself ends a transaction that was left open."""


async def open_database(
    dsn: str,
    *,
    size: int,
    timeout: float,  # noqa: ASYNC109
    application: str,
    plans: dict[str, str] = CUSTOM_PLANS,
    stateless: bool = False,
) -> Database:
    """Creates a pool that connects at its first use, so that the start needs no database.

    Args:
        dsn: libpq URI or keyword string.
        size: maximum number of connections.
        timeout: seconds for each statement.
        application: shown in pg_stat_activity.
        plans: how PostgreSQL plans the statements.
        stateless: whether the statements leave no state beyond their transaction, such as a lock or a setting; then a
            connection is released without a round trip that resets it.
    """
    address = read_dsn(dsn)
    pool = asyncpg.create_pool(
        connect=partial(connect, address),
        min_size=0,
        max_size=size,
        timeout=timeout_of(address, timeout),
        command_timeout=timeout,
        max_inactive_connection_lifetime=300,
        reset=_no_reset if stateless else None,
        server_settings={
            **_options(address),
            "application_name": application,
            **plans,
            "jit": "off",
            "statement_timeout": str(int(timeout * 1000)),
            "timezone": "UTC",
            "datestyle": "ISO",
        },
    )
    return Database(await pool)
