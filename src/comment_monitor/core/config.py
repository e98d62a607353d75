"""Every setting, declared once with its bounds, its default and its sentence; read from the environment.

docs/configuration.md is generated from this file.
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
    """The annotation of one field of `Settings`.

    Args:
        variable: the environment variable.
        description: the sentence of the documentation.
        secret: the value may hold a password, so no message shows it.
        bounds: msgspec constraints: `ge`, `le`, `gt`, `min_length`.
    """
    return msgspec.Meta(description=description, extra={"variable": variable, "secret": secret}, **bounds)


Network = IPv4Network | IPv6Network


@functools.cache
def networks(text: str) -> tuple[Network, ...]:
    """The networks that a text names, with commas or blanks between them.

    Raises:
        ValueError: one of them is no network; the message names it.
    """
    return tuple(map(ip_network, text.replace(",", " ").split()))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The program's settings, within their bounds."""

    enabled: Annotated[
        bool,
        setting(
            "COMMENT_MONITORING_ENABLED",
            "Take comments in. `false`: `POST /comments/process` answers 503, everything else works.",
        ),
    ] = True
    batch_size: Annotated[
        int,
        setting("COMMENT_BATCH_SIZE", "Comments per batch, and per entry of the analysis queue.", ge=5, le=25),
    ] = 10
    dedup_cache_ttl: Annotated[
        int,
        setting("COMMENT_DEDUP_CACHE_TTL", "Seconds for which Redis remembers a comment.", ge=1800, le=7200),
    ] = 3600
    processing_timeout: Annotated[
        int,
        setting(
            "COMMENT_PROCESSING_TIMEOUT",
            "Seconds from a batch's arrival to its commit; over it the request answers 503 and may be repeated. Also "
            "the time limit of one comment's analysis.",
            ge=15,
            le=45,
        ),
    ] = 30
    rate_limit_per_minute: Annotated[
        int,
        setting(
            "COMMENT_RATE_LIMIT_PER_MINUTE",
            "Requests to `POST /comments/process` a minute and client (its address; of IPv6 its /64), shared by all "
            "pods. 0: no limit.",
            ge=0,
            le=200,
        ),
    ] = 100
    trusted_proxies: Annotated[
        str,
        setting(
            "COMMENT_TRUSTED_PROXIES",
            "Networks of the proxies before this service, such as `10.0.0.0/8, fd00::/8`: they say in "
            "`X-Forwarded-For` or `Forwarded` who the client is. Empty: nobody is believed, and whoever connects is "
            "the client.",
        ),
    ] = ""
    max_retries: Annotated[
        int,
        setting("COMMENT_MAX_RETRIES", "Repeats after a first failed try, wherever something is retried.", ge=0, le=10),
    ] = 3
    backoff_multiplier: Annotated[
        float,
        setting(
            "COMMENT_BACKOFF_MULTIPLIER",
            "Factor by which the wait grows from retry to retry (jitter is added).",
            ge=1,
            le=10,
        ),
    ] = 2
    queue_capacity: Annotated[
        int,
        setting(
            "COMMENT_QUEUE_CAPACITY",
            "Comments that may wait in one process, with the whole request that fills it; beyond it requests answer "
            "503 with `Retry-After`.",
            ge=25,
            le=1_000_000,
        ),
    ] = 10_000
    max_comments_per_request: Annotated[
        int,
        setting("COMMENT_MAX_PER_REQUEST", "Comments in one request; more answer 413.", ge=1, le=100_000),
    ] = 10_000
    max_request_bytes: Annotated[
        int,
        setting("COMMENT_MAX_REQUEST_BYTES", "Bytes of one request's body; more answer 413.", ge=1024, le=268_435_456),
    ] = 16 * 1024 * 1024
    body_bytes_in_flight: Annotated[
        int,
        setting(
            "COMMENT_BODY_BYTES_IN_FLIGHT",
            "Bytes of bodies that one process holds at a time; beyond it requests answer 503 with `Retry-After`. A "
            "quarter is left to bodies up to 64 KiB; a body above the room is taken where it is the only large one.",
            ge=1_048_576,
            le=4_294_967_296,
        ),
    ] = 64 * 1024 * 1024
    max_connections: Annotated[
        int,
        setting(
            "COMMENT_MAX_CONNECTIONS",
            "Connections of clients to one process. Beyond it idle ones are closed; while none is idle, new ones are "
            "answered 503 with `Retry-After`, but for `/health`.",
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
        setting("COMMENT_WRITE_GROUP_SIZE", "Comments at most that share one write (group commit).", ge=25, le=10_000),
    ] = 1000
    read_connections: Annotated[
        int,
        setting("COMMENT_READ_CONNECTIONS", "PostgreSQL connections for reading, beside the writers'.", ge=1, le=64),
    ] = 4
    read_timeout: Annotated[
        int,
        setting("COMMENT_READ_TIMEOUT", "Seconds after which a reading query is given up with 503.", ge=1, le=120),
    ] = 10
    reads_per_client: Annotated[
        int,
        setting(
            "COMMENT_READS_PER_CLIENT",
            "Reads that one client (as for the rate limit) may have under way at a time in one process, a quarter of "
            "them searches; more answer 429. 0: any number.",
            ge=0,
            le=1000,
        ),
    ] = 16
    drain_delay: Annotated[
        int,
        setting(
            "COMMENT_DRAIN_DELAY",
            "Seconds after SIGTERM in which `/health` is 503 but work is still taken, so that load balancers notice.",
            ge=0,
            le=60,
        ),
    ] = 0
    check_interval: Annotated[
        int,
        setting(
            "COMMENT_CHECK_INTERVAL",
            "Seconds between two looks at the data's promises, for `comment_invariant_violations`: one for the whole "
            "installation, in slices. 0: none.",
            ge=0,
            le=604_800,
        ),
    ] = 3600
    sweep_interval: Annotated[
        float,
        setting("COMMENT_SWEEP_INTERVAL", "Seconds between two looks for analysis work to send again.", gt=0, le=60),
    ] = 1
    resend_after: Annotated[
        int,
        setting(
            "COMMENT_RESEND_AFTER",
            "Seconds after which a batch not yet analysed is sent again (each time longer, with jitter). The queue "
            "before the workers holds work for half of this time at most.",
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
        setting("POSTGRES_DSN", "PostgreSQL, as a plain libpq URI.", secret=True),
    ] = ""
    redis_url: Annotated[
        str,
        setting(
            "REDIS_URL",
            "Redis for deduplication and rate limits: `redis://`, `rediss://` or `unix://`, a node of a Redis Cluster "
            "as well; `redis+sentinel://host:26379,host:26379/SERVICE` behind Sentinels. Empty: work without it.",
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
        setting("RABBITMQ_URL", "Read where `CELERY_BROKER_URL` is not set.", secret=True),
    ] = ""
    task_events: Annotated[
        bool,
        setting(
            "CELERY_TASK_EVENTS",
            "Workers tell of each task as it is received, started and ended: for celery-exporter or Flower.",
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
            "A file whose word, such as DEBUG, counts instead of `LOG_LEVEL`; looked at every second. While it is "
            "missing or empty, `LOG_LEVEL` counts.",
        ),
    ] = ""
    otlp_endpoint: Annotated[
        str,
        setting(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "Where traces go: OTLP over HTTP, such as `http://collector:4318`. Empty: none are made. OpenTelemetry's "
            "other variables hold too.",
            secret=True,
            pattern="^https?://",
        ),
    ] = ""

    @property
    def broker_url(self) -> str:
        """The Celery broker's URL; empty where none is set."""
        return self.celery_broker_url or self.rabbitmq_url


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What the documentation and the error messages know about one setting."""

    field: str
    variable: str
    description: str
    default: Any
    bounds: str
    type: Any
    secret: bool


def bounds_of(variable: str, meta: msgspec.Meta, kind: type) -> str:
    """The allowed values in words, such as `5 to 25`."""
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
    """All settings in the order of their declaration."""
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
    """The settings from the environment; an empty variable counts as not set.

    Raises:
        ConfigurationError: a value is out of bounds; the message names variable, value and bounds in one line.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for one in declared():
        raw = source.get(one.variable, "").strip()
        if raw:
            values[one.field] = _convert(one, raw)
    return Settings(**values)


def _convert(one: Declared, raw: str) -> Any:
    try:
        value = msgspec.convert(raw.upper() if one.field == "log_level" else raw, one.type, strict=False)
        if one.field == "trusted_proxies":
            networks(value)
    except (msgspec.ValidationError, ValueError):
        value = None
    if value is None or (one.field == "rate_limit_per_minute" and 0 < value < RATE_LIMIT_MIN):
        shown = "<hidden>" if one.secret else raw
        raise ConfigurationError(f"{one.variable}={shown}: must be {one.bounds}")
    return value


def require_dsn(settings: Settings, data_dir: Path | None = None) -> None:
    """Says what is missing where no database is named, and what is wrong where its name can't be read.

    Args:
        settings: the settings.
        data_dir: the folder in which a running `up` was looked for.

    Raises:
        ConfigurationError: POSTGRES_DSN is empty or can't be read.
    """
    if settings.postgres_dsn:
        read_dsn(settings.postgres_dsn)
        return
    if data_dir is None:
        raise ConfigurationError(f"POSTGRES_DSN is not set: it must be {FORM}")
    raise ConfigurationError(
        f"No `comment-monitor up` is running on {data_dir.absolute()}, and POSTGRES_DSN is not set: start it, name its "
        f"folder with --data-dir, or set POSTGRES_DSN to {FORM}"
    )
