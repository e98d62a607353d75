"""The settings, each declared once with bounds, default and description; their values come from the environment.

docs/configuration.md is generated from this file. Other modules read PROMETHEUS_MULTIPROC_DIR, OpenTelemetry's
variables except OTEL_EXPORTER_OTLP_ENDPOINT, and libpq's variables.
"""

import functools
import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import msgspec

from comment_monitor.core.dsn import FORM, read_dsn
from comment_monitor.core.errors import ConfigurationError

RATE_LIMIT_MIN: Final = 50


def setting(variable: str, description: str, *, secret: bool = False, **bounds: Any) -> msgspec.Meta:
    """Returns the annotation of one field of `Settings`.

    Args:
        variable: the environment variable.
        description: the description in docs/configuration.md.
        secret: the value may hold a password, so no message shows it.
        bounds: msgspec constraints: `ge`, `le`, `gt`, `pattern`.
    """
    return msgspec.Meta(description=description, extra={"variable": variable, "secret": secret}, **bounds)


Network = IPv4Network | IPv6Network


@functools.cache
def networks(text: str) -> tuple[Network, ...]:
    """Parses networks that are separated by commas or blanks.

    Raises:
        ValueError: the text contains an invalid network; the message names it.
    """
    return tuple(map(ip_network, text.replace(",", " ").split()))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The program's settings, within their bounds."""

    enabled: Annotated[
        bool,
        setting(
            "COMMENT_MONITORING_ENABLED",
            "Accept comments. `false`: `POST /comments/process` answers 503, everything else works.",
        ),
    ] = True
    batch_size: Annotated[
        int,
        setting("COMMENT_BATCH_SIZE", "Maximum number of comments in a batch and in an outbox row.", ge=5, le=25),
    ] = 10
    dedup_cache_ttl: Annotated[
        int,
        setting("COMMENT_DEDUP_CACHE_TTL", "Seconds for which Redis remembers a comment.", ge=1800, le=7200),
    ] = 3600
    processing_timeout: Annotated[
        int,
        setting(
            "COMMENT_PROCESSING_TIMEOUT",
            "Seconds in which all comments of a request must be committed, counted from when they are queued; after "
            "that the request gets 503 and may be repeated. Also the time limit for the analysis of one comment.",
            ge=15,
            le=45,
        ),
    ] = 30
    rate_limit_per_minute: Annotated[
        int,
        setting(
            "COMMENT_RATE_LIMIT_PER_MINUTE",
            "Requests to `POST /comments/process` per minute and client, counted over all pods (while Redis is "
            "unavailable, separately in each process). A client is an IPv4 address or an IPv6 /64. 0: no limit.",
            ge=0,
            le=200,
        ),
    ] = 100
    trusted_proxies: Annotated[
        str,
        setting(
            "COMMENT_TRUSTED_PROXIES",
            "Networks of the proxies in front of this service, such as `10.0.0.0/8, fd00::/8`. They name the client in "
            "`X-Forwarded-For` or `Forwarded`. Empty: these headers are ignored, and the client is the peer of the "
            "connection.",
        ),
    ] = ""
    max_retries: Annotated[
        int,
        setting(
            "COMMENT_MAX_RETRIES", "Maximum number of retries of a failed database operation or analysis.", ge=0, le=10
        ),
    ] = 3
    backoff_multiplier: Annotated[
        float,
        setting(
            "COMMENT_BACKOFF_MULTIPLIER",
            "Factor by which the wait grows from retry to retry; jitter is added.",
            ge=1,
            le=10,
        ),
    ] = 2
    queue_capacity: Annotated[
        int,
        setting(
            "COMMENT_QUEUE_CAPACITY",
            "Maximum number of comments that wait in one process. The request that fills the queue is accepted as a "
            "whole, even if it exceeds this number; further requests get 503 with `Retry-After`.",
            ge=25,
            le=1_000_000,
        ),
    ] = 10_000
    max_comments_per_request: Annotated[
        int,
        setting(
            "COMMENT_MAX_PER_REQUEST", "Maximum number of comments per request; larger ones get 413.", ge=1, le=100_000
        ),
    ] = 10_000
    max_request_bytes: Annotated[
        int,
        setting(
            "COMMENT_MAX_REQUEST_BYTES",
            "Maximum number of bytes in the body of a request; a larger body gets 413.",
            ge=1024,
            le=268_435_456,
        ),
    ] = 16 * 1024 * 1024
    body_bytes_in_flight: Annotated[
        int,
        setting(
            "COMMENT_BODY_BYTES_IN_FLIGHT",
            "Maximum number of bytes of request bodies that one process holds at a time. Above this limit, requests "
            "get 503 with `Retry-After`. A quarter is reserved for bodies of at most 64 KiB; a larger body is always "
            "accepted while it is the only such body.",
            ge=1_048_576,
            le=4_294_967_296,
        ),
    ] = 64 * 1024 * 1024
    max_connections: Annotated[
        int,
        setting(
            "COMMENT_MAX_CONNECTIONS",
            "Maximum number of client connections to one process. Above this limit, idle connections are closed; while "
            "none is idle, requests on new connections get 503 with `Retry-After`, except for `/health` and "
            "`/health/started`.",
            ge=16,
            le=20_000,
        ),
    ] = 1000
    writers: Annotated[
        int,
        setting(
            "COMMENT_WRITERS", "Concurrent writes to PostgreSQL in one process; each holds a connection.", ge=1, le=16
        ),
    ] = 2
    write_group_size: Annotated[
        int,
        setting(
            "COMMENT_WRITE_GROUP_SIZE",
            "Maximum number of comments in one write (group commit). If a request has a comment several times, its "
            "batches share one write even above this limit.",
            ge=25,
            le=10_000,
        ),
    ] = 1000
    read_connections: Annotated[
        int,
        setting("COMMENT_READ_CONNECTIONS", "PostgreSQL connections for reading, besides the writers'.", ge=1, le=64),
    ] = 4
    read_timeout: Annotated[
        int,
        setting(
            "COMMENT_READ_TIMEOUT", "Seconds after which a read's query is cancelled; the read gets 503.", ge=1, le=120
        ),
    ] = 10
    reads_per_client: Annotated[
        int,
        setting(
            "COMMENT_READS_PER_CLIENT",
            "Maximum number of concurrent reads of one client (as for the rate limit) in one process, of which a "
            "quarter may be searches; further reads get 429. 0: no limit.",
            ge=0,
            le=1000,
        ),
    ] = 16
    drain_delay: Annotated[
        int,
        setting(
            "COMMENT_DRAIN_DELAY",
            "Seconds after SIGTERM in which `/health` answers 503 but requests are still accepted, so that load "
            "balancers notice the shutdown.",
            ge=0,
            le=60,
        ),
    ] = 0
    check_interval: Annotated[
        int,
        setting(
            "COMMENT_CHECK_INTERVAL",
            "Seconds between two checks of the data's invariants, for `comment_invariant_violations`. One process "
            "checks for the whole installation, in slices. 0: no checks.",
            ge=0,
            le=604_800,
        ),
    ] = 3600
    sweep_interval: Annotated[
        float,
        setting(
            "COMMENT_SWEEP_INTERVAL",
            "Seconds between two sweeps: each sends the outbox rows that are due.",
            gt=0,
            le=60,
        ),
    ] = 1
    resend_after: Annotated[
        int,
        setting(
            "COMMENT_RESEND_AFTER",
            "Seconds after which an outbox row that is not yet analysed is sent again. The time grows with each "
            "repetition, with jitter. The workers' queue is limited to the work of about half of this time.",
            ge=1,
            le=3600,
        ),
    ] = 60
    retention_days: Annotated[
        int,
        setting(
            "COMMENT_RETENTION_DAYS", "Days for which `cleanup` keeps a comment after it was stored.", ge=1, le=36_500
        ),
    ] = 365
    postgres_dsn: Annotated[
        str,
        setting("POSTGRES_DSN", "PostgreSQL, as a libpq URI.", secret=True),
    ] = ""
    redis_url: Annotated[
        str,
        setting(
            "REDIS_URL",
            "Redis for deduplication and rate limits: `redis://`, `rediss://` or `unix://`, also for a node of a Redis "
            "Cluster; `redis+sentinel://host:26379,host:26379/SERVICE` for Sentinels. Empty: work without Redis.",
            secret=True,
        ),
    ] = ""
    celery_broker_url: Annotated[
        str,
        setting(
            "CELERY_BROKER_URL",
            "The broker of the analysis queue: RabbitMQ (`amqp://`), or Redis as in `REDIS_URL`, but no Redis Cluster.",
            secret=True,
        ),
    ] = ""
    rabbitmq_url: Annotated[
        str,
        setting("RABBITMQ_URL", "The broker of the analysis queue, if `CELERY_BROKER_URL` is not set.", secret=True),
    ] = ""
    task_events: Annotated[
        bool,
        setting(
            "CELERY_TASK_EVENTS",
            "Workers send an event when a task is received, started and ended, for celery-exporter or Flower.",
        ),
    ] = False
    log_level: Annotated[
        str,
        setting(
            "LOG_LEVEL", "DEBUG, INFO, WARNING, ERROR or CRITICAL.", pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$"
        ),
    ] = "INFO"
    log_level_file: Annotated[
        str,
        setting(
            "LOG_LEVEL_FILE",
            "A file with a level, such as DEBUG, that replaces `LOG_LEVEL`; read every second. While the file is "
            "missing or empty, `LOG_LEVEL` applies.",
        ),
    ] = ""
    otlp_endpoint: Annotated[
        str,
        setting(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "Endpoint of the traces: OTLP over HTTP, such as `http://collector:4318`. Empty: no traces. The other "
            "variables of OpenTelemetry apply too.",
            secret=True,
            pattern="^https?://",
        ),
    ] = ""

    @property
    def broker_url(self) -> str:
        """The URL of the Celery broker; empty where no broker is set."""
        return self.celery_broker_url or self.rabbitmq_url


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of one setting, for the documentation and the error messages."""

    field: str
    variable: str
    description: str
    default: Any
    bounds: str
    type: Any
    secret: bool


def bounds_of(variable: str, meta: msgspec.Meta, kind: type) -> str:
    """Returns the allowed values as text, such as `5 to 25`."""
    if variable == "COMMENT_RATE_LIMIT_PER_MINUTE":
        return f"0 or {RATE_LIMIT_MIN} to {meta.le}"
    if variable == "COMMENT_TRUSTED_PROXIES":
        return "networks such as 10.0.0.0/8, with commas between them"
    if variable == "LOG_LEVEL":
        return "DEBUG, INFO, WARNING, ERROR or CRITICAL"
    if variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
        return "an http:// or https:// address"
    if kind is bool:
        return "true or false"
    low = str(meta.ge) if meta.ge is not None else f"above {meta.gt}" if meta.gt is not None else None
    return "text" if low is None else f"{low} to {meta.le}"


def declared() -> tuple[Declared, ...]:
    """Returns all settings in the order of their declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    result = []
    for field in msgspec.structs.fields(Settings):
        kind, meta = hints[field.name].__origin__, hints[field.name].__metadata__[0]
        variable = meta.extra["variable"]
        result.append(
            Declared(
                field=field.name,
                variable=variable,
                description=meta.description,
                default=field.default,
                bounds=bounds_of(variable, meta, kind),
                type=hints[field.name],
                secret=meta.extra["secret"],
            )
        )
    return tuple(result)


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings from the environment; an empty variable counts as not set.

    Raises:
        ConfigurationError: a value is out of bounds; the message is one line with variable, value and bounds.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for declaration in declared():
        raw = source.get(declaration.variable, "").strip()
        if raw:
            values[declaration.field] = _convert(declaration, raw)
    return Settings(**values)


def _convert(declaration: Declared, raw: str) -> Any:
    try:
        value = msgspec.convert(
            raw.upper() if declaration.field == "log_level" else raw, declaration.type, strict=False
        )
        if declaration.field == "trusted_proxies":
            networks(value)
    except (msgspec.ValidationError, ValueError):
        value = None
    if value is None or (declaration.field == "rate_limit_per_minute" and 0 < value < RATE_LIMIT_MIN):
        shown = "<hidden>" if declaration.secret else raw
        raise ConfigurationError(f"{declaration.variable}={shown}: must be {declaration.bounds}")
    return value


def require_dsn(settings: Settings, data_dir: Path | None = None) -> None:
    """Requires a valid POSTGRES_DSN.

    Args:
        settings: the settings.
        data_dir: the folder that was searched for a running `up`; the message names it.

    Raises:
        ConfigurationError: POSTGRES_DSN is empty or can't be parsed.
    """
    if settings.postgres_dsn:
        read_dsn(settings.postgres_dsn)
        return
    if data_dir is None:
        raise ConfigurationError(f"POSTGRES_DSN is not set: it must be {FORM}")
    raise ConfigurationError(
        f"No `comment-monitor up` is running on {data_dir.absolute()}, and POSTGRES_DSN is not set: start it, give its "
        f"folder with --data-dir, or set POSTGRES_DSN to {FORM}"
    )
