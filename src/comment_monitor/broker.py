"""The Celery application as publisher and worker both need it: queue, delivery and time limits in one place."""

from typing import Final
from urllib.parse import urlsplit

from celery import Celery
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from comment_monitor.config import Settings
from comment_monitor.errors import ConfigurationError

QUEUE_NAME: Final = "comment-analysis"
ANALYSE: Final = "comment_monitor.analyse"
SILENCE: Final = 10
# Comments that a message stands for, and that a worker analyses in one go, at the most.
COMMENTS_A_MESSAGE: Final = 250
COMMENTS_TOGETHER: Final = 500
# Messages that a worker process holds: enough small ones to work on together, and of the largest two seconds' work.
MESSAGES_HELD: Final = 40


def make_celery(settings: Settings) -> Celery:
    """A Celery application for these settings; it connects when it is used.

    Raises:
        ConfigurationError: the broker's URL is of no kind that Celery knows.
    """
    _check(settings.broker_url)
    app = Celery("comment_monitor", broker=settings.broker_url or "memory://", set_as_current=False)
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
        worker_consumer="comment_monitor.deliveries:Consumer",
        # The last resort: a text has a limit of its own (analysis/time_limit.py), and a task ends before this one
        # (attempt.py). A soft limit would strike whichever text, or statement, is under way.
        task_time_limit=settings.processing_timeout + 15,
        # Three messages a task, so only where somebody listens. Heartbeats come without it. `task-sent` never does:
        # the publisher's messages are Celery's by form only (link.py).
        worker_send_task_events=settings.task_events,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        # Publishing fails at once where the broker is away: the outbox has the batch, the sweep sends it again.
        task_publish_retry=False,
        broker_transport_options=_transport_options(settings.broker_url),
        task_serializer="json",
        accept_content=["json"],
    )
    return app


def batches_together(settings: Settings) -> int:
    """Batches that a worker takes in one go at the most."""
    return COMMENTS_TOGETHER // settings.batch_size


def batches_a_message(settings: Settings) -> int:
    """Batches that a message names at the most."""
    return COMMENTS_A_MESSAGE // settings.batch_size


def _check(url: str) -> None:
    # Several, as Redis Sentinel has them. A port that is none shows a password that is not escaped.
    readable = not url or all(map(_readable, url.split(";")))
    if not readable:
        raise ConfigurationError(
            "CELERY_BROKER_URL=<hidden>: must be such as amqp://user:password@host:5672// or redis://host:6379/0 "
            "(a / in the password is written %2F)"
        )


def _readable(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return url.partition("://")[0].partition("+")[0] in TRANSPORT_ALIASES


def _transport_options(url: str) -> dict[str, object]:
    if url.startswith("redis"):
        # Redis gives an unacknowledged message back after this time.
        return {"visibility_timeout": 300, "socket_connect_timeout": 2, "socket_timeout": 10}
    if url.startswith(("amqp", "pyamqp")):
        # A broker that is silent for so long is away: without a limit, waiting for its confirmation would have no end.
        silence = {"read_timeout": SILENCE, "write_timeout": SILENCE}
        return {"confirm_publish": True, **silence, "max_retries": 1, "interval_start": 0, "interval_max": 0.5}
    return {}
