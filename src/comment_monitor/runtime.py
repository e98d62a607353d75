"""Opens and closes the pools and clients of a process: the only module that manages their lifetimes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from comment_monitor.core.config import Settings, require_dsn
from comment_monitor.intake.dedup_cache import DedupCache
from comment_monitor.intake.pipeline import Pipeline
from comment_monitor.intake.rate_limit import RateLimit
from comment_monitor.maintenance.scheduler import Scheduler
from comment_monitor.messaging.celery_app import batches_a_message, make_celery
from comment_monitor.messaging.publisher import Publisher
from comment_monitor.storage.postgres import GENERIC_PLANS, Database, open_database
from comment_monitor.storage.readiness import DatabaseState
from comment_monitor.storage.redis_client import open_cluster, open_redis


class Runtime(NamedTuple):
    """The components of a process that accepts comments."""

    settings: Settings
    writing: Database
    background: Database
    reading: Database
    schema: DatabaseState
    cache: DedupCache
    limit: RateLimit
    pipeline: Pipeline
    scheduler: Scheduler
    publisher: Publisher


@asynccontextmanager
async def open_runtime(settings: Settings, *, application: str) -> AsyncIterator[Runtime]:
    """Opens all components of a process that accepts comments; at the end finishes accepted work and closes them.

    Raises:
        ConfigurationError: POSTGRES_DSN is missing or can't be parsed.
    """
    require_dsn(settings)
    writing = await open_database(
        settings.postgres_dsn,
        size=settings.writers,
        timeout=settings.processing_timeout,
        application=application,
        plans=GENERIC_PLANS,
        stateless=True,
    )
    background = await open_database(
        settings.postgres_dsn, size=2, timeout=settings.processing_timeout, application=application
    )
    reading = await open_database(
        settings.postgres_dsn,
        size=settings.read_connections,
        timeout=settings.read_timeout,
        application=f"{application} reading",
        stateless=True,
    )
    cache = DedupCache(
        open_redis(settings.redis_url),
        ttl=settings.dedup_cache_ttl,
        open_cluster=lambda: open_cluster(settings.redis_url),
    )
    publisher = Publisher(
        make_celery(settings) if settings.broker_url else None, ids_per_message=batches_a_message(settings)
    )
    schema = DatabaseState()
    pipeline = Pipeline(settings, writing, cache, publisher, schema)
    scheduler = Scheduler(settings, background, schema, cache, publisher)
    limit = RateLimit(settings.rate_limit_per_minute, settings.redis_url)
    try:
        await scheduler.refresh_schema()
        async with scheduler.running(), pipeline.running():
            yield Runtime(settings, writing, background, reading, schema, cache, limit, pipeline, scheduler, publisher)
    finally:
        publisher.close(timeout=5)
        await limit.close()
        await writing.close()
        await background.close()
        await reading.close()
        await cache.close()


def check_addresses(settings: Settings) -> None:
    """Checks the syntax of the servers' addresses without connecting.

    Raises:
        ConfigurationError: an address can't be parsed; the message is one line that names the variable.
    """
    open_redis(settings.redis_url)
    if settings.broker_url:
        make_celery(settings)
