"""The PostgreSQL pool; every statement has a name and is timed by it."""

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

# It is there and lets nobody in, or not us: as while somebody restores a backup.
REFUSED_ERRORS: Final = (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InsufficientPrivilegeError)
# What PostgreSQL or the way to it may answer when it is not there, restarting, full or closed.
UNAVAILABLE_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg makes of a statement on a connection that the server has just ended.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # Its files are gone, or can't be read or written.
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    *REFUSED_ERRORS,
)
# It answers, and takes no writes: a look at it, which reads, finds nothing wrong.
REFUSES_WRITES: Final = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    *REFUSED_ERRORS,
)
# What this process was given to connect with is wrong, and waiting makes it no better.
REFUSES_US: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    SessionRefusedError,
    ssl.SSLCertVerificationError,
)
# Another transaction was in the way; the same write may succeed at once.
CONFLICT_ERRORS: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)

# The schema is not there, or not yet as this code knows it.
SCHEMA_MISSING_ERRORS: Final = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedObjectError)

# Of a comment that PostgreSQL can't store as it is, whenever it is sent.
NOT_STORABLE_ERRORS: Final = (asyncpg.DataError, asyncpg.StatementTooComplexError, asyncpg.ProgramLimitExceededError)

Record = asyncpg.Record

# The first that fits.
WORDS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]] = (
    (asyncpg.InvalidCatalogNameError, "the server has no such database"),
    (asyncpg.InvalidAuthorizationSpecificationError, "the server refuses the user or the password"),
    (socket.gaierror, "the host's name is not known"),
    (ssl.SSLCertVerificationError, "its certificate is of no authority that is trusted here, or is another host's"),
    (ssl.SSLError, "it does not speak the TLS that was asked for"),
    ((TimeoutError, ConnectTimeoutError), "it did not answer in time"),
    (SessionRefusedError, "it refuses the `options` of POSTGRES_DSN"),
    (asyncpg.TargetServerAttributeNotMatched, "no host is what `target_session_attrs` asks for"),
    # One of them is a kind of the next.
    (CONFLICT_ERRORS, "{}"),
    (asyncpg.ReadOnlySQLTransactionError, "it takes no writes: it is read-only"),
    (asyncpg.DiskFullError, "it takes no writes: its disk is full"),
    (asyncpg.PostgresSystemError, "it can't use its files ({})"),
    (REFUSED_ERRORS, "the server does not permit it ({})"),
    (UNAVAILABLE_ERRORS, "it ended the connection ({})"),
)

CLOSE_TIMEOUT: Final = 2.0


def in_words(error: BaseException) -> str:
    """Why PostgreSQL could not be used, without its own words, which may hold more than may be shown."""
    # The numbers of these are none of the system's.
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno).lower()
    words = next((words for kinds, words in WORDS if isinstance(error, kinds)), "{}")
    return words.format(type(error).__name__)


def refuses_us(error: BaseException) -> bool:
    """Whether PostgreSQL is there and refuses login, database, options or certificate, or the host's name is unknown.

    An outage is none of this, and neither is a resolver that does not answer.
    """
    return isinstance(error, REFUSES_US) or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME)


def _options(address: Address) -> dict[str, str]:
    """The DSN's own, which count for less than the settings beside them."""
    return {"options": address.options} if address.options else {}


async def require_login(dsn: str, *, timeout: float, application: str) -> None:  # noqa: ASYNC109
    """Connects once, for a process that would learn of a wrong address only with its first work.

    A database that is away is logged: it may come back.

    Args:
        dsn: libpq URI or keyword string.
        timeout: seconds for it.
        application: shown in pg_stat_activity.

    Raises:
        ConfigurationError: the database refuses what the DSN says.
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
            with tracing.query(query.name):
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

    async def close(self) -> None:
        """Closes the pool; a connection that is not given back within two seconds is cut."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.pool.close()
        except (TimeoutError, *UNAVAILABLE_ERRORS):
            self.pool.terminate()


# A plan for the values at hand: only so can the planner prove that a query lies within the partial index of recent
# comments.
CUSTOM_PLANS: Final = {"plan_cache_mode": "force_custom_plan"}
# One plan for all values: planning is a third of the time of a small write. It was made when the table may have been
# empty, so it must not depend on that: each row is looked up by an index.
GENERIC_PLANS: Final = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}


async def _nothing_to_forget(_: Any) -> None:
    """Of a transaction that was left open, asyncpg itself sees to the end."""


async def open_database(
    dsn: str,
    *,
    size: int,
    timeout: float,  # noqa: ASYNC109
    application: str,
    plans: dict[str, str] = CUSTOM_PLANS,
    stateless: bool = False,
) -> Database:
    """A pool that connects when it is first used, so that the start needs no database.

    Args:
        dsn: libpq URI or keyword string.
        size: connections at most.
        timeout: seconds for each statement.
        application: shown in pg_stat_activity.
        plans: how PostgreSQL plans the statements.
        stateless: whether nothing that outlives its transaction is ever done (a lock, a setting): then a connection
            that is given back needs no round trip to forget it.
    """
    address = read_dsn(dsn)
    pool = asyncpg.create_pool(
        connect=partial(connect, address),
        min_size=0,
        max_size=size,
        timeout=timeout_of(address, timeout),
        command_timeout=timeout,
        max_inactive_connection_lifetime=300,
        reset=_nothing_to_forget if stateless else None,
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
