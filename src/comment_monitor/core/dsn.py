"""Parses POSTGRES_DSN once for asyncpg and for psycopg2: both get the same explicit parameters.

Libpq accepts more parameters than asyncpg. A parameter that asyncpg can't honour is rejected by name: if it were
silently dropped, the migration could work on another database or schema than the service. See docs/adr/0040.
"""

import os
import pwd
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg2
import psycopg2.extensions

from comment_monitor.core import tls
from comment_monitor.core.errors import ConfigurationError

FORM: Final = "a libpq URI, such as postgresql://user:password@host:5432/comments"
PORT: Final = 5432
SOCKET_FOLDERS: Final = ("/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108 - PostgreSQL's own default
# Seconds for one connection attempt where the DSN gives no `connect_timeout`.
CONNECT_TIMEOUT: Final = 10
SESSION_ATTRIBUTES: Final = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")

# Libpq's environment variables, by its parameters. Other variables have no effect, because both libraries get the
# values of those parameters explicitly.
VARIABLES: Final = {
    name: f"PG{name.replace('_', '').upper()}"
    for name in (
        "host", "hostaddr", "port", "user", "password", "passfile", "service", "options", "connect_timeout", "sslmode",
        "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "sslcertmode", "sslsni", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "channel_binding",
        "require_auth", "gssencmode", "krbsrvname", "gssdelegation", "load_balance_hosts",
    )
} | {"connect_timeout": "PGCONNECT_TIMEOUT", "dbname": "PGDATABASE", "requirepeer": "PGREQUIREPEER"}  # fmt: skip

TAKEN: Final = frozenset((
    "host", "hostaddr", "port", "user", "password", "passfile", "dbname", "options", "connect_timeout", "sslmode",
    "target_session_attrs", *tls.ONLY_ENCRYPTED,
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
))  # fmt: skip
# Ignored: this program names its connections itself in both libraries.
NAMED_BY_US: Final = ("application_name", "fallback_application_name")
# Values with which libpq behaves as asyncpg always does; any other value is rejected.
ALWAYS: Final = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("utf8", "utf-8", "unicode", "auto"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "replication": ("false", "off", "no", "0"),
    "sslcertmode": ("allow",),
    "sslcompression": ("0", "1"),
    "sslnegotiation": ("postgres",),
    "sslsni": ("1",),
}


class Host(NamedTuple):
    """The address of one server: a host name, an IP address or the folder of a socket; and the port."""

    name: str
    port: int


class Keepalive(NamedTuple):
    """TCP keepalive of idle connections, in seconds except `probes` and `user_timeout_ms`; 0: the system's default."""

    on: bool
    idle: int
    interval: int
    probes: int
    user_timeout_ms: int


class Address(NamedTuple):
    """How to connect to the database, with nothing left to a library's own defaults.

    `connect_timeout`: seconds for one host; None where the DSN gives no value.
    """

    hosts: list[Host]
    user: str
    password: str | None
    passfile: str | None
    database: str
    ssl: ssl.SSLContext | str
    options: str | None
    target_session_attrs: str
    connect_timeout: int | None
    keepalive: Keepalive
    # The same as libpq parameters.
    libpq: dict[str, str]


def read_dsn(dsn: str, environment: Mapping[str, str] = os.environ) -> Address:
    """Returns the parameters of a DSN, completed from libpq's environment variables.

    Raises:
        ConfigurationError: the DSN can't be parsed, or has a parameter that one of the libraries can't honour. (The
            message does not repeat the DSN, which may hold a password.)
    """
    try:
        # An empty value counts as not given, as in libpq.
        parts = {name: value for name, value in psycopg2.extensions.parse_dsn(dsn).items() if value}
    except psycopg2.ProgrammingError:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: must be {FORM}") from None
    for name, variable in VARIABLES.items():
        if environment.get(variable):
            parts.setdefault(name, environment[variable])
    _refuse(parts)
    hosts = _hosts(parts)
    parts["user"] = parts.get("user") or _system_user()
    parts.setdefault("dbname", parts["user"])
    if all(host.name.startswith("/") for host in hosts):
        # Libpq uses TLS over TCP only.
        parts["sslmode"] = "disable"
        parts = {name: value for name, value in parts.items() if name not in tls.ONLY_ENCRYPTED}
    else:
        tls.complete(parts)
    numbers = {name: _number(parts, name) for name in KEEPALIVE}
    return Address(
        hosts=hosts,
        user=parts["user"],
        password=parts.get("password"),
        passfile=parts.get("passfile"),
        database=parts["dbname"],
        ssl=tls.context(parts),
        options=parts.get("options"),
        target_session_attrs=parts.setdefault("target_session_attrs", "any"),
        connect_timeout=_number(parts, "connect_timeout", least=1) if "connect_timeout" in parts else None,
        keepalive=Keepalive(numbers["keepalives"] != 0, *list(numbers.values())[1:]),
        libpq=parts,
    )


def psycopg_arguments(dsn: str, *, application: str) -> dict[str, Any]:
    """Returns the arguments of `psycopg2.connect` for a DSN.

    Args:
        dsn: libpq URI or keyword string.
        application: shown in pg_stat_activity.

    Raises:
        ConfigurationError: as in `read_dsn`.
    """
    parts = read_dsn(dsn).libpq
    return {"connect_timeout": CONNECT_TIMEOUT, **parts, "application_name": application, "client_encoding": "UTF8"}


def _refuse(parts: dict[str, str]) -> None:
    """Rejects a parameter that not both libraries honour; removes from `parts` the parameters without effect."""
    for name, value in list(parts.items()):
        if name in TAKEN:
            continue
        if name not in NAMED_BY_US and value.lower() not in ALWAYS.get(name, ()):
            named = f" ({VARIABLES[name]})" if name in VARIABLES else ""
            other = f"; leave it out, or set it to {' or '.join(ALWAYS[name])}" if name in ALWAYS else ""
            hint = ": write its contents into the DSN" if name == "service" else ""
            raise ConfigurationError(
                f"POSTGRES_DSN=<hidden>: {name}{named} is not supported by every part of this program{other}{hint}"
            )
        del parts[name]
    if parts.get("target_session_attrs", "any") not in SESSION_ATTRIBUTES:
        raise ConfigurationError(
            f"POSTGRES_DSN=<hidden>: target_session_attrs must be one of {', '.join(SESSION_ATTRIBUTES)}"
        )


def _hosts(parts: dict[str, str]) -> list[Host]:
    """Returns the servers in their order, and writes their hosts and ports into `parts`."""
    addresses = parts.pop("hostaddr", None)
    if addresses and "host" in parts and parts["host"] != addresses:
        raise ConfigurationError(
            "POSTGRES_DSN=<hidden>: hostaddr together with host is not supported by every part of this program: "
            "give only one of them"
        )
    names = [name or _default_host() for name in (parts.get("host") or addresses or "").split(",")]
    if any(name.startswith("@") for name in names):
        raise ConfigurationError(
            "POSTGRES_DSN=<hidden>: host: abstract sockets are not supported; give a folder or a host"
        )
    ports = [_port(port) for port in parts.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: {len(names)} hosts, but {len(ports)} ports")
    parts["host"], parts["port"] = ",".join(names), ",".join(map(str, ports))
    return list(map(Host, names, ports))


def _default_host() -> str:
    """Returns the folder with a server's socket; where there is none, localhost."""
    return next((folder for folder in SOCKET_FOLDERS if any(Path(folder).glob(".s.PGSQL.*[0-9]"))), "localhost")


def _port(text: str) -> int:
    try:
        port = int(text) if text else PORT
    except ValueError:
        port = 0
    if not 0 < port < 2**16:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: a port must be a number from 1 to 65535; {FORM}")
    return port


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ConfigurationError(
            "POSTGRES_DSN=<hidden>: user is missing, and this process's user has no name"
        ) from None


# Libpq's default of each parameter.
KEEPALIVE: Final = {
    "keepalives": 1, "keepalives_idle": 0, "keepalives_interval": 0, "keepalives_count": 0, "tcp_user_timeout": 0,
}  # fmt: skip
LONGEST: Final = {"keepalives_count": 127, "tcp_user_timeout": 2**31 - 1}


def _number(parts: Mapping[str, str], name: str, least: int = 0) -> int:
    most = LONGEST.get(name, 32_767)
    try:
        number = int(parts[name]) if name in parts else KEEPALIVE[name]
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise ConfigurationError(f"POSTGRES_DSN=<hidden>: {name} must be a number from {least} to {most}")
    return number
