"""The Celery application of publishers and workers: queue, delivery and time limits in one place."""

from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlsplit

from celery import Celery
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES
from redis import Redis
from redis.exceptions import RedisError

from comment_monitor.core.config import Settings
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.storage.redis_client import Sentinels, read_sentinels

VARIABLE: Final = "CELERY_BROKER_URL"

QUEUE_NAME: Final = "comment-analysis"
ANALYSE: Final = "comment_monitor.analyse"
SILENCE: Final = 10
# The maximum number of comments in a message, and in a task that a worker runs.
MAX_COMMENTS_PER_MESSAGE: Final = 250
MAX_COMMENTS_PER_TASK: Final = 500
# Messages that a worker process prefetches: enough small ones to process together; with the largest ones, two seconds
# of work.
MESSAGES_HELD: Final = 40
# Redis redelivers an unacknowledged message after `visibility_timeout` seconds.
REDIS_OPTIONS: Final = {"visibility_timeout": 300, "socket_connect_timeout": 2, "socket_timeout": 10}
REDIS_PATIENCE: Final[dict[str, Any]] = {"socket_connect_timeout": 2, "socket_timeout": 2}


def make_celery(settings: Settings) -> Celery:
    """Creates a Celery application for these settings; it connects on first use.

    Raises:
        ConfigurationError: Celery does not support the broker's URL.
    """
    _check(settings.broker_url)
    url, transport_options = _transport(settings.broker_url)
    app = Celery("comment_monitor", broker=url or "memory://", set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE_NAME,
        # Durable and persistent are the defaults; explicit because delivery across a broker's restart depends on them.
        task_queues=[Queue(QUEUE_NAME, durable=True)],
        task_default_delivery_mode="persistent",
        task_ignore_result=True,
        # Acknowledged when done, and redelivered when the worker process is lost: a redelivery is harmless.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=MESSAGES_HELD,
        worker_consumer="comment_monitor.messaging.consumer:Consumer",
        # The last resort: each text has its own limit (analysis/time_limit.py), and a task ends before this limit
        # (task_attempt.py). A soft limit would interrupt any text or statement that is being processed.
        task_time_limit=settings.processing_timeout + 15,
        # Three messages per task, so only if a consumer needs them. Heartbeats are sent regardless. `task-sent` is
        # never sent: the publisher's messages have Celery's format, but Celery does not send them (producer.py).
        worker_send_task_events=settings.task_events,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        # Publishing fails at once if the broker is unavailable: the outbox has the batch, and the sweep sends it again.
        task_publish_retry=False,
        broker_transport_options=transport_options,
        task_serializer="json",
        accept_content=["json"],
    )
    app.events.dispatcher_cls = "comment_monitor.messaging.consumer:Dispatcher"
    return app


def batches_together(settings: Settings) -> int:
    """Returns the most batches that a worker processes in one task."""
    return MAX_COMMENTS_PER_TASK // settings.batch_size


def batches_a_message(settings: Settings) -> int:
    """Returns the most batches that a message names."""
    return MAX_COMMENTS_PER_MESSAGE // settings.batch_size


def refuse_cluster(url: str) -> None:
    """Rejects a broker that is a node of a Redis Cluster, on which Celery's commands on several keys would fail.

    Ignores a broker that is unavailable or is not Redis.

    Raises:
        ConfigurationError: the broker is such a node.
    """
    if not url.startswith(("redis://", "rediss://")):
        return
    with suppress(RedisError, OSError, ValueError), Redis.from_url(url, **REDIS_PATIENCE) as client:
        if client.info("cluster").get("cluster_enabled"):
            raise ConfigurationError(
                "CELERY_BROKER_URL=<hidden>: Celery can't use a Redis Cluster: name a Redis without cluster mode, or "
                "RabbitMQ"
            )


def _check(url: str) -> None:
    # Semicolons separate several URLs. An invalid port indicates a password that is not escaped.
    readable = not url or read_sentinels(url, VARIABLE) is not None or all(map(_readable, url.split(";")))
    if not readable:
        raise ConfigurationError(
            "CELERY_BROKER_URL=<hidden>: must be like amqp://user:password@host:5672//, redis://host:6379/0 or "
            "redis+sentinel://host:26379,host:26379/SERVICE (a / in the password is written %2F)"
        )


def _readable(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    scheme = url.partition("://")[0]
    # Celery's own URL for Sentinels can't contain the name of their service.
    return scheme != "sentinel" and scheme.partition("+")[0] in TRANSPORT_ALIASES


def _transport(url: str) -> tuple[str, dict[str, object]]:
    """Returns the URL and the transport options with which Celery connects to the broker."""
    if sentinels := read_sentinels(url, VARIABLE):
        return _through_sentinels(sentinels)
    if url.startswith("redis"):
        return url, dict(REDIS_OPTIONS)
    if url.startswith(("amqp", "pyamqp")):
        # A broker that is silent for this time counts as unavailable: otherwise a confirmation is awaited forever.
        silence = {"read_timeout": SILENCE, "write_timeout": SILENCE}
        return url, {"confirm_publish": True, **silence, "max_retries": 1, "interval_start": 0, "interval_max": 0.5}
    return url, {}


def _through_sentinels(sentinels: Sentinels) -> tuple[str, dict[str, object]]:
    if sentinels.tls:
        raise ConfigurationError("CELERY_BROKER_URL=<hidden>: Celery can't use TLS behind Sentinels")
    login = ""
    if sentinels.password:
        login = f"{quote(sentinels.username or '', safe='')}:{quote(sentinels.password, safe='')}@"
    hosts = [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in sentinels.hosts]
    url = ";".join(f"sentinel://{login}{host}/{sentinels.database}" for host in hosts)
    own = {"password": sentinels.sentinel_password} if sentinels.sentinel_password else {}
    sentinel_options = {**own, **REDIS_PATIENCE}
    return url, {**REDIS_OPTIONS, "master_name": sentinels.service, "sentinel_kwargs": sentinel_options}
