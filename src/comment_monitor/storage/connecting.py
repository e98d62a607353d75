"""Connects asyncpg as libpq would: host by host, each with its own time, and with keepalives."""

import asyncio
import socket
from typing import Any, Final

import asyncpg

from comment_monitor.core.dsn import CONNECT_TIMEOUT, Address, Host, Keepalive

# Seconds that each of several hosts gets at least.
LEAST_TIMEOUT: Final = 2.0


class ConnectTimeoutError(ConnectionError):
    """No server answered in time; not a TimeoutError, which is a statement that took too long."""


class SessionRefusedError(ConnectionError):
    """The server is there, and refuses what the DSN's `options` ask for."""


# What a server says to a setting that it does not know, or to a value.
REFUSED: Final = (asyncpg.SyntaxOrAccessError, asyncpg.DataError, asyncpg.FeatureNotSupportedError)


def timeout_of(address: Address, longest: float) -> float:
    """Seconds for one host.

    Without `connect_timeout` in the DSN, several hosts share the time of one.

    Args:
        address: the reading of the DSN.
        longest: seconds that a statement may take: connecting need not take longer.
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
    """A connection to the first host that answers and is what `target_session_attrs` asks for.

    Args:
        address: the reading of the DSN.
        _dsn: what a pool hands over that was made without a DSN.
        timeout: seconds for each host.
        session: further arguments of asyncpg.

    Raises:
        ConnectTimeoutError: the last host did not answer in time.
        SessionRefusedError: the server refuses the DSN's `options`.
        asyncpg.PostgresError: a server refuses the user, the password or the database; no other is asked then.
        OSError: no host takes the connection.
        asyncpg.TargetServerAttributeNotMatched: none is what was asked for.
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
    """As libpq: a server that is gone without a word is noticed while nothing is sent."""
    # asyncpg has no argument for it.
    transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is None or raw.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    if keepalive.user_timeout_ms and hasattr(socket, "TCP_USER_TIMEOUT"):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, keepalive.user_timeout_ms)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive.on))
    if not keepalive.on:
        return
    # Of another name on macOS.
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    for option, value in (
        (idle, keepalive.idle),
        (socket.TCP_KEEPINTVL, keepalive.interval),
        (socket.TCP_KEEPCNT, keepalive.probes),
    ):
        if option is not None and value:
            raw.setsockopt(socket.IPPROTO_TCP, option, value)
