"""Opens clients of a single Redis, of a Redis Cluster, and of a Redis behind Sentinels, by their URLs."""

from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import redis.asyncio
import redis.asyncio.retry
import redis.backoff
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisClusterException, RedisError

from comment_monitor.core.errors import ConfigurationError

# Seconds for connecting and for each command: Redis is a side path, and a slow Redis must not delay a write.
REDIS_TIMEOUT: Final = 0.5
# Errors of Redis or of the network. (The client's own exception for a cluster is no RedisError.)
UNAVAILABLE: Final = (RedisError, RedisClusterException, OSError, TimeoutError)

SENTINEL_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_PORT: Final = 26379
FORM: Final = (
    "redis://, rediss://, unix://, or redis+sentinel://HOST:26379,HOST:26379/SERVICE "
    "(a / in the password is written %2F)"
)


class Sentinels(NamedTuple):
    """The Sentinels that name the current master, and how to connect to that master."""

    hosts: list[tuple[str, int]]
    service: str
    database: int
    # Credentials of the Redis; the Sentinels' password is `sentinel_password` in the URL's query.
    username: str | None
    password: str | None
    sentinel_password: str | None
    tls: bool
    # Further parameters of the query, such as `socket_timeout`.
    options: dict[str, Any]


def read_sentinels(url: str, variable: str = "REDIS_URL") -> Sentinels | None:
    """Returns the Sentinels that a URL names; None for any other URL.

    Args:
        url: such as `redis+sentinel://:PASSWORD@a:26379,b:26379/SERVICE/0?sentinel_password=...`.
        variable: the name of the setting, for the message.

    Raises:
        ConfigurationError: the URL names Sentinels, and can't be parsed. (The message does not repeat the URL.)
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SENTINEL_SCHEMES:
        return None
    try:
        place, _, query = rest.partition("?")
        hosts, _, path = place.partition("/")
        login, _, hosts = hosts.rpartition("@")
        service, _, database = path.strip("/").partition("/")
        username, _, password = login.partition(":")
        options: dict[str, Any] = {**parse_url(f"redis://localhost?{query}")} if query else {}
        options.pop("host", None)
        found = Sentinels(
            hosts=[_host(host) for host in hosts.split(",")],
            service=unquote(service),
            database=int(database or 0),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_password=options.pop("sentinel_password", None),
            tls=SENTINEL_SCHEMES[scheme.lower()] == "rediss",
            options=dict(options),
        )
    except (ValueError, TypeError):
        found = None
    if found is None or not found.service:
        raise ConfigurationError(
            f"{variable}=<hidden>: must name Sentinels and their service, such as {FORM.partition('or ')[2]}"
        )
    return found


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or SENTINEL_PORT


def open_redis(url: str, *, connections: int | None = None) -> "redis.asyncio.Redis | None":
    """Opens a client with short timeouts; returns None for an empty URL.

    Args:
        url: in any form that REDIS_URL permits.
        connections: maximum number of connections; None: unlimited.

    Raises:
        ConfigurationError: the URL can't be parsed.
    """
    if not url:
        return None
    if sentinels := read_sentinels(url):
        return _open_master(sentinels, connections)
    try:
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            url, **_patience(), retry=_one_repeat(), max_connections=connections
        )
    except ValueError:
        raise ConfigurationError(f"REDIS_URL=<hidden>: must be {FORM}") from None
    return client


async def close_redis(client: "redis.asyncio.Redis | redis.asyncio.RedisCluster") -> None:
    """Closes a client's connections, including those to its Sentinels, which the library does not close."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()


def open_cluster(url: str) -> "redis.asyncio.RedisCluster":
    """Opens a client of the whole cluster to which the node in the URL belongs."""
    client: redis.asyncio.RedisCluster = redis.asyncio.RedisCluster.from_url(
        url, **_patience(), retry=_one_repeat(), require_full_coverage=False
    )
    return client


def _open_master(sentinels: Sentinels, connections: int | None) -> "redis.asyncio.Redis":
    """Opens a client that asks the Sentinels at each new connection, so that it follows a failover."""
    common: dict[str, Any] = {**_patience(), **sentinels.options, "ssl": sentinels.tls}
    manager = Sentinel(  # type: ignore[no-untyped-call]
        sentinels.hosts,
        sentinel_kwargs={**common, "password": sentinels.sentinel_password},
        **common,
        username=sentinels.username,
        password=sentinels.password,
        db=sentinels.database,
    )
    client: redis.asyncio.Redis = manager.master_for(
        sentinels.service, retry=_one_repeat(), max_connections=connections
    )
    return client


def _patience() -> dict[str, Any]:
    return {"socket_timeout": REDIS_TIMEOUT, "socket_connect_timeout": REDIS_TIMEOUT}


def _one_repeat() -> redis.asyncio.retry.Retry:
    # Without a wait: a restart of the server may have closed a pooled connection.
    return redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1)
