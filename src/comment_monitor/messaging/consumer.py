"""What the broker delivers to a worker: a task of ours, or something else, which is rejected here.

Celery takes a message apart in several places, and what it can't read ends the whole worker in some of them. Nothing
gets there that is not of the form which `producer.py` sends.
"""

from collections.abc import Callable
from typing import Any, Final

from celery.events import EventDispatcher
from celery.worker.consumer import Consumer as CeleryConsumer

from comment_monitor.messaging.celery_app import ANALYSE
from comment_monitor.observability import logs, metrics

logger = logs.get(__name__)

# What an outbox row's number may be (a bigint of PostgreSQL), and how many a message may name.
MAX_ID: Final = 2**63 - 1
MAX_IDS: Final = 10_000
MAX_NAME: Final = 200
ARGUMENTS: Final = 3
# Celery's own wishes that no message of ours has: a time limit of somebody else's, a later time, a task that follows.
UNUSED: Final = (
    "eta", "expires", "timelimit", "group", "chord", "replaced_task_nesting", "stamps", "stamped_headers",
)  # fmt: skip
EMPTY: Final[tuple[object, ...]] = (None, 0, "", [], {}, [None, None])


class Consumer(CeleryConsumer):
    """Celery's consumer behind a look at each message."""

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self._loop_of_celery: Callable[..., object] = vars(self)["loop"]
        self.loop = self._loop_that_survives

    def create_task_handler(self, *args: Any, **more: Any) -> Callable[[Any], object]:
        """What is called with each message."""
        handle: Callable[[Any], object] = super().create_task_handler(*args, **more)

        def on_message(message: Any) -> object:
            return None if rejects(message, vars(self)["connection_errors"]) else handle(message)

        return on_message

    def _loop_that_survives(self, *args: Any, **more: Any) -> object:
        """What the broker's client can't read (a foreign entry in Redis's list) is like a broken connection."""
        try:
            return self._loop_of_celery(*args, **more)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            metrics.count_error("foreign-message")
            logger.error("delivery_unreadable", error=type(error).__name__, at=logs.where(error.__traceback__))  # noqa: TRY400
            raise ConnectionError("the broker's delivery can't be read") from None


class Dispatcher(EventDispatcher):
    """Celery's sender of events, which does not wait for a broker that is away: the next connection takes them along.

    Celery sends a worker's heartbeat again and again until the broker is back, and meanwhile hears no signal.
    """

    def send(self, type: str, *args: Any, **fields: Any) -> None:  # noqa: A002 - Celery's name for it
        """Sends an event once."""
        super().send(type, *args, **fields | {"retry": False})


def rejects(message: Any, connection_errors: tuple[type[Exception], ...]) -> bool:
    """Rejects a message that is none of ours, for good: it would be no other the next time. Whether it did."""
    fault = fault_of(message)
    if fault is None:
        return False
    metrics.count_error("foreign-message")
    logger.error("message_rejected", reason=fault)
    message.reject_log_error(logger, connection_errors)
    return True


def fault_of(message: Any) -> str | None:
    """Why a message is none of ours; None where it is one."""
    headers = message.headers
    if not isinstance(headers, dict) or headers.get("task") != ANALYSE:
        return "it is no analysis task"
    name = headers.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return "its id is no text"
    if any(headers.get(one) not in EMPTY for one in UNUSED) or not isinstance(headers.get("retries", 0), int):
        return "its headers ask for what no message of ours does"
    return _fault_of_body(message)


def _fault_of_body(message: Any) -> str | None:
    try:
        payload = message.payload
    except Exception as error:  # noqa: BLE001 - whatever its decoder makes of foreign bytes
        return f"its body can't be read ({type(error).__name__})"
    if not isinstance(payload, (list, tuple)) or len(payload) != ARGUMENTS:
        return "its body has not the form of a task"
    ids, named, embedded = payload
    if named or not isinstance(named, dict) or not isinstance(embedded, dict) or any(embedded.values()):
        return "its body has more than batches"
    if not isinstance(ids, (list, tuple)) or not 0 < len(ids) <= MAX_IDS or not all(map(_is_id, ids)):
        return f"its batches are no numbers, or more than {MAX_IDS}"
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID
