"""Libpq's way to name a database, in the words of asyncpg."""

import ssl
from typing import Any

import psycopg2
import psycopg2.extensions

from comment_monitor.errors import ConfigurationError

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
FORM = "a libpq URI, such as postgresql://user:password@host:5432/comments"


def connect_arguments(dsn: str) -> dict[str, Any]:
    """Asyncpg's arguments for a libpq DSN, whose dialect is wider than asyncpg's own.

    Raises:
        ConfigurationError: it can't be read, or names a certificate that can't. (The message does not repeat it: it may
            hold a password.)
    """
    try:
        parts = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: must be {FORM}") from None
    arguments: dict[str, Any] = {}
    for libpq, ours in (("user", "user"), ("password", "password"), ("dbname", "database"), ("passfile", "passfile")):
        if parts.get(libpq):
            arguments[ours] = parts[libpq]
    if parts.get("host"):
        arguments["host"] = parts["host"].split(",")
    if parts.get("port"):
        arguments["port"] = _ports(parts["port"])
    if parts.get("target_session_attrs"):
        arguments["target_session_attrs"] = parts["target_session_attrs"]
    if parts.get("sslmode"):
        arguments["ssl"] = _tls(parts)
    return arguments


def _ports(text: str) -> list[int] | int:
    try:
        ports = [int(port) for port in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: a port must be a number; {FORM}") from None
    return ports if len(ports) > 1 else ports[0]


def _tls(parts: dict[str, str]) -> ssl.SSLContext | str:
    """Libpq's sslmode: with certificates named, a context that uses them; else the mode's own word."""
    mode = parts["sslmode"]
    if mode not in SSLMODES:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: sslmode must be one of {', '.join(SSLMODES)}")
    if mode in ("disable", "allow", "prefer") or not (parts.get("sslrootcert") or parts.get("sslcert")):
        return mode
    try:
        context = ssl.create_default_context(cafile=parts.get("sslrootcert"))
        context.check_hostname = mode == "verify-full"
        if parts.get("sslcert"):
            context.load_cert_chain(parts["sslcert"], parts.get("sslkey"), parts.get("sslpassword"))
    except OSError as error:  # ssl.SSLError is one too
        raise ConfigurationError(
            f"POSTGRES_DSN=<hidden>: sslrootcert, sslcert or sslkey can't be used ({error.strerror or error})"
        ) from None
    return context
