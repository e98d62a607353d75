"""Checks each message that the broker delivers to a worker, and rejects those that are not this program's tasks.

Celery parses a message in several places, and in some of them an unreadable message ends the whole worker. So only
messages in the form that `producer.py` sends get there.
"""

from collections.abc import Callable
from typing import Any, Final

from celery.events import EventDispatcher
from celery.worker.consumer import Consumer as CeleryConsumer

from comment_monitor.messaging.celery_app import ANALYSE
from comment_monitor.observability import logs, metrics

logger = logs.get(__name__)

# The largest id of an outbox row (PostgreSQL's bigint), and the most ids that a message may name.
MAX_ID: Final = 2**63 - 1
MAX_IDS: Final = 10_000
MAX_NAME: Final = 200
ARGUMENTS: Final = 3
# Celery's headers that no message of this program sets: other time limits, a later start, a follow-up task.
UNUSED: Final = (
    "eta", "expires", "timelimit", "group", "chord", "replaced_task_nesting", "stamps", "stamped_headers",
)  # fmt: skip
EMPTY: Final[tuple[object, ...]] = (None, 0, "", [], {}, [None, None])


class Consumer(CeleryConsumer):
    """Celery's consumer, with a check of each message before it."""

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self._loop_of_celery: Callable[..., object] = vars(self)["loop"]
        self.loop = self._loop_that_survives
        self._was_connected = False

    def create_task_handler(self, *args: Any, **more: Any) -> Callable[[Any], object]:
        """Returns the function that handles each message."""
        handle: Callable[[Any], object] = super().create_task_handler(*args, **more)

        def on_message(message: Any) -> object:
            return None if rejects(message, vars(self)["connection_errors"]) else handle(message)

        return on_message

    def _loop_that_survives(self, *args: Any, **more: Any) -> object:
        """Treats a delivery that the client can't read (a foreign entry in Redis's list) as a lost connection."""
        if self._was_connected:
            self._read_results()
        self._was_connected = True
        try:
            return self._loop_of_celery(*args, **more)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            metrics.count_error("foreign-message")
            logger.error("delivery_unreadable", error=type(error).__name__, at=logs.where(error.__traceback__))  # noqa: TRY400
            raise ConnectionError("the broker's delivery can't be read") from None

    def _read_results(self) -> None:
        """Reads the results of tasks that ended while Celery waited for the broker.

        Celery reads no results during that wait. Afterwards it checks the time limits first, and would kill the
        processes of tasks that ended long ago.
        """
        pool: Any = getattr(vars(self)["pool"], "_pool", None)
        # A pool without processes (`--pool solo`) has no descriptors.
        for descriptor in tuple(getattr(pool, "_fileno_to_outq", ())):
            pool.handle_result_event(descriptor)


class Dispatcher(EventDispatcher):
    """Celery's sender of events, but without retries: events that can't be sent wait for the next connection.

    Celery itself retries a worker's heartbeat until the broker is available, and handles no signal meanwhile.
    """

    def send(self, type: str, *args: Any, **fields: Any) -> None:  # noqa: A002 - Celery's name for it
        """Sends an event, without retries."""
        super().send(type, *args, **fields | {"retry": False})


def rejects(message: Any, connection_errors: tuple[type[Exception], ...]) -> bool:
    """Rejects a message that is not this program's, without requeueing; returns whether it did."""
    fault = fault_of(message)
    if fault is None:
        return False
    metrics.count_error("foreign-message")
    logger.error("message_rejected", reason=fault)
    message.reject_log_error(logger, connection_errors)
    return True


def fault_of(message: Any) -> str | None:
    """Returns why a message is not this program's, or None."""
    headers = message.headers
    if not isinstance(headers, dict) or headers.get("task") != ANALYSE:
        return "it is not an analysis task"
    name = headers.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return f"its id is not a string of 1 to {MAX_NAME} characters"
    if any(headers.get(header) not in EMPTY for header in UNUSED) or not isinstance(headers.get("retries", 0), int):
        return "its headers request features that this program does not use"
    return _fault_of_body(message)


def _fault_of_body(message: Any) -> str | None:
    try:
        payload = message.payload
    except Exception as error:  # noqa: BLE001 - the decoder may raise anything on foreign bytes
        return f"its body can't be read ({type(error).__name__})"
    if not isinstance(payload, (list, tuple)) or len(payload) != ARGUMENTS:
        return "its body does not have the form of a task"
    ids, named, embedded = payload
    if named or not isinstance(named, dict) or not isinstance(embedded, dict) or any(embedded.values()):
        return "its body contains more than batches"
    if not isinstance(ids, (list, tuple)) or not 0 < len(ids) <= MAX_IDS or not all(map(_is_id, ids)):
        return f"its batches are not 1 to {MAX_IDS} numbers"
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID
