"""The Celery application as publisher and worker both need it: queue, delivery and time limits in one place."""

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
# Comments that a message stands for, and that a worker analyses in one go, at most.
MAX_COMMENTS_PER_MESSAGE: Final = 250
MAX_COMMENTS_PER_TASK: Final = 500
# Messages that a worker process holds: enough small ones to work on together, and of the largest two seconds' work.
MESSAGES_HELD: Final = 40
# Redis gives an unacknowledged message back after the first of these times.
REDIS_OPTIONS: Final = {"visibility_timeout": 300, "socket_connect_timeout": 2, "socket_timeout": 10}
REDIS_PATIENCE: Final[dict[str, Any]] = {"socket_connect_timeout": 2, "socket_timeout": 2}


def make_celery(settings: Settings) -> Celery:
    """A Celery application for these settings; it connects when it is used.

    Raises:
        ConfigurationError: the broker's URL is of no kind that Celery knows.
    """
    _check(settings.broker_url)
    url, transport_options = _transport(settings.broker_url)
    app = Celery("comment_monitor", broker=url or "memory://", set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE_NAME,
        # Durable and persistent are the defaults; said here because delivery across a broker's restart rests on them.
        task_queues=[Queue(QUEUE_NAME, durable=True)],
        task_default_delivery_mode="persistent",
        task_ignore_result=True,
        # Acknowledged when done, and given back when the worker process is lost: a redelivery is harmless.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=MESSAGES_HELD,
        worker_consumer="comment_monitor.messaging.consumer:Consumer",
        # The last resort: a text has a limit of its own (analysis/time_limit.py), and a task ends before this one
        # (task_attempt.py). A soft limit would strike whichever text, or statement, is under way.
        task_time_limit=settings.processing_timeout + 15,
        # Three messages a task, so only where somebody listens. Heartbeats come without it. `task-sent` never does:
        # the publisher's messages are Celery's by form only (producer.py).
        worker_send_task_events=settings.task_events,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        # Publishing fails at once where the broker is away: the outbox has the batch, the sweep sends it again.
        task_publish_retry=False,
        broker_transport_options=transport_options,
        task_serializer="json",
        accept_content=["json"],
    )
    app.events.dispatcher_cls = "comment_monitor.messaging.consumer:Dispatcher"
    return app


def batches_together(settings: Settings) -> int:
    """Batches that a worker takes in one go at most."""
    return MAX_COMMENTS_PER_TASK // settings.batch_size


def batches_a_message(settings: Settings) -> int:
    """Batches that a message names at most."""
    return MAX_COMMENTS_PER_MESSAGE // settings.batch_size


def refuse_cluster(url: str) -> None:
    """Ends where the broker is a node of a Redis Cluster: Celery's commands on several keys would fail one by one.

    Raises:
        ConfigurationError: it is one. A broker that is away, or of another kind, is not asked.
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
    # Several are parted by semicolons. A port that is none shows a password that is not escaped.
    readable = not url or read_sentinels(url, VARIABLE) is not None or all(map(_readable, url.split(";")))
    if not readable:
        raise ConfigurationError(
            "CELERY_BROKER_URL=<hidden>: must be such as amqp://user:password@host:5672//, redis://host:6379/0 or "
            "redis+sentinel://host:26379,host:26379/SERVICE (a / in the password is written %2F)"
        )


def _readable(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    scheme = url.partition("://")[0]
    # Celery's own form for Sentinels has no place for the name of their service.
    return scheme != "sentinel" and scheme.partition("+")[0] in TRANSPORT_ALIASES


def _transport(url: str) -> tuple[str, dict[str, object]]:
    """The URL and the options by which Celery finds the broker."""
    if sentinels := read_sentinels(url, VARIABLE):
        return _through_sentinels(sentinels)
    if url.startswith("redis"):
        return url, dict(REDIS_OPTIONS)
    if url.startswith(("amqp", "pyamqp")):
        # A broker that is silent for so long is away: without a limit, waiting for its confirmation would have no end.
        silence = {"read_timeout": SILENCE, "write_timeout": SILENCE}
        return url, {"confirm_publish": True, **silence, "max_retries": 1, "interval_start": 0, "interval_max": 0.5}
    return url, {}


def _through_sentinels(sentinels: Sentinels) -> tuple[str, dict[str, object]]:
    if sentinels.tls:
        raise ConfigurationError("CELERY_BROKER_URL=<hidden>: TLS behind Sentinels can't be honoured by Celery")
    login = ""
    if sentinels.password:
        login = f"{quote(sentinels.username or '', safe='')}:{quote(sentinels.password, safe='')}@"
    hosts = [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in sentinels.hosts]
    url = ";".join(f"sentinel://{login}{host}/{sentinels.database}" for host in hosts)
    own = {"password": sentinels.sentinel_password} if sentinels.sentinel_password else {}
    asked = {**own, **REDIS_PATIENCE}
    return url, {**REDIS_OPTIONS, "master_name": sentinels.service, "sentinel_kwargs": asked}
