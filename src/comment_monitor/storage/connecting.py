"""Connects asyncpg as libpq would: host by host, with a timeout for each host, and with TCP keepalives."""

import asyncio
import socket
from typing import Any, Final

import asyncpg

from comment_monitor.core.dsn import CONNECT_TIMEOUT, Address, Host, Keepalive

# Minimum timeout of each of several hosts, in seconds.
LEAST_TIMEOUT: Final = 2.0


class ConnectTimeoutError(ConnectionError):
    """No server answered in time. It is no TimeoutError, because that means a statement that took too long."""


class SessionRefusedError(ConnectionError):
    """The server is available, but rejects the `options` of the DSN."""


# Errors of a server for an unknown setting, or for an invalid value of a setting.
REFUSED: Final = (asyncpg.SyntaxOrAccessError, asyncpg.DataError, asyncpg.FeatureNotSupportedError)


def timeout_of(address: Address, longest: float) -> float:
    """Returns the timeout of one host, in seconds.

    Without `connect_timeout` in the DSN, several hosts share the timeout of one host.

    Args:
        address: the parsed DSN.
        longest: the timeout of a statement in seconds; connecting need not take longer.
    """
    if address.connect_timeout is not None:
        return float(min(address.connect_timeout, longest))
    return max(min(longest, CONNECT_TIMEOUT) / len(address.hosts), LEAST_TIMEOUT)


async def connect(
    address: Address,
    _dsn: None = None,
    *,
    timeout: float,  # noqa: ASYNC109
    **session: Any,
) -> "asyncpg.Connection[asyncpg.Record]":
    """Connects to the first host that answers and satisfies `target_session_attrs`.

    Args:
        address: the parsed DSN.
        _dsn: unused; a pool without a DSN passes None.
        timeout: seconds for each host.
        session: further arguments of asyncpg.

    Raises:
        ConnectTimeoutError: the last host did not answer in time.
        SessionRefusedError: the server rejects the `options` of the DSN.
        asyncpg.PostgresError: a server rejects the user, the password or the database; no further host is tried.
        OSError: no host accepts the connection.
        asyncpg.TargetServerAttributeNotMatched: no host satisfies `target_session_attrs`.
    """
    wanted = [address.target_session_attrs]
    if wanted == ["prefer-standby"]:
        wanted = ["standby", "any"]
    last: Exception = ConnectTimeoutError()
    for attributes in wanted:
        for host in address.hosts:
            try:
                return await _connect(address, host, attributes, timeout=timeout, **session)
            except TimeoutError:
                last = ConnectTimeoutError()
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as error:
                if isinstance(error, SessionRefusedError):
                    raise
                last = error
    raise last


async def _connect(
    address: Address,
    host: Host,
    attributes: str,
    *,
    timeout: float,  # noqa: ASYNC109
    **session: Any,
) -> "asyncpg.Connection[asyncpg.Record]":
    where: dict[str, Any] = {
        "host": host.name,
        "port": host.port,
        "user": address.user,
        "password": address.password,
        "passfile": address.passfile,
        "database": address.database,
        "ssl": address.ssl,
        "target_session_attrs": attributes,
    }
    try:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**where, timeout=timeout, **session)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError):
        raise
    except REFUSED as error:
        raise SessionRefusedError(type(error).__name__) from None
    _keep_alive(connection, address.keepalive)
    return connection


def _keep_alive(connection: "asyncpg.Connection[asyncpg.Record]", keepalive: Keepalive) -> None:
    """Sets the keepalives of libpq, which detect a dead server on an idle connection."""
    # asyncpg has no argument for keepalives.
    transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is None or raw.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    if keepalive.user_timeout_ms and hasattr(socket, "TCP_USER_TIMEOUT"):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, keepalive.user_timeout_ms)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive.on))
    if not keepalive.on:
        return
    # macOS has another name for it.
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    for option, value in (
        (idle, keepalive.idle),
        (socket.TCP_KEEPINTVL, keepalive.interval),
        (socket.TCP_KEEPCNT, keepalive.probes),
    ):
        if option is not None and value:
            raw.setsockopt(socket.IPPROTO_TCP, option, value)
