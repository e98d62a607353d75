"""One connection to the broker that sends many messages and waits for their confirmations together.

Celery's own `send_task` waits for each: a round trip and 0.4 ms of Python a message, which the requests of the same
process pay for. The messages here are Celery's, made by it once and filled in.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import kombu
from celery import Celery

from comment_monitor.messaging.celery_app import ANALYSE, QUEUE_NAME, SILENCE
from comment_monitor.observability import correlation, logs
from comment_monitor.observability.correlation import RequestContexts

logger = logs.get(__name__)

CONNECT_TIMEOUT: Final = 4
PERSISTENT: Final = 2


class NotTakenError(Exception):
    """The broker refused a message, or did not confirm it."""


class OutboxMessage(NamedTuple):
    """Outbox rows for one task, and the requests behind them as far as they are known."""

    outbox_ids: Sequence[int]
    contexts: RequestContexts


class ConfirmingProducer:
    """Not connected at first; broken, it has to be closed and its next use connects again. For one thread."""

    def __init__(self, app: Celery):
        self._app = app
        self._connection: kombu.Connection | None = None
        self._producer: Any = None
        task = app.amqp.as_task_v2(str(uuid.uuid4()), ANALYSE, args=(0,))
        self._body = task.body
        # What says nothing is what a worker takes for granted; each header costs time here, there and at the broker.
        self._headers = {name: value for name, value in task.headers.items() if value not in (None, {}, [None, None])}
        # Numbers of messages on this connection: the last one sent, those that are yet to be confirmed.
        self._sent = 0
        self._unconfirmed: set[int] = set()
        self._refused = False
        self._confirms = False

    def send(self, messages: Sequence[OutboxMessage]) -> None:
        """Sends a task for each message; returns once the broker has all of them.

        Raises:
            NotTakenError: it refused one.
            Exception: whatever the broker's client raises when the broker is away.
        """
        self._connect()
        for message in messages:
            self._publish(message)
        while self._unconfirmed:
            assert self._connection  # noqa: S101 - connected above
            self._connection.drain_events(timeout=SILENCE)
        if self._refused:
            self._refused = False
            raise NotTakenError

    def depth(self) -> int:
        """How many messages wait at the broker."""
        self._connect()
        assert self._connection  # noqa: S101 - connected above
        # Its name, its messages, its consumers; the library's types know of the name only.
        answer: Any = self._app.amqp.queues[QUEUE_NAME](self._connection.default_channel).queue_declare()
        depth: int = answer[1]
        return depth

    def close(self) -> None:
        """Leaves the connection; one that is broken is no hindrance."""
        connection, self._connection = self._connection, None
        if connection:
            with suppress(Exception):
                connection.collect(socket_timeout=1)

    def _connect(self) -> None:
        if self._connection:
            return
        connection = self._app.connection_for_write()
        # We wait for confirmations ourselves, for many at a time.
        connection.transport_options = {**(connection.transport_options or {}), "confirm_publish": False}
        connection.ensure_connection(max_retries=1, timeout=CONNECT_TIMEOUT)
        channel: Any = connection.default_channel
        self._sent, self._unconfirmed, self._refused = 0, set(), False
        self._confirms = hasattr(channel, "confirm_select")
        if self._confirms:
            channel.confirm_select()
            channel.events["basic_ack"].add(self._confirmed)
            channel.events["basic_nack"].add(self._nacked)
        self._producer = kombu.Producer(channel)
        # Declared as the workers do: a message to a queue that is not there would be confirmed, and gone.
        self._app.amqp.queues[QUEUE_NAME](channel).declare()
        self._connection = connection

    def _publish(self, message: OutboxMessage) -> None:
        name = str(uuid.uuid4())
        ids = message.outbox_ids
        headers = {**self._headers, "id": name, "root_id": name, "argsrepr": str(tuple(ids))}
        if message.contexts:
            headers[correlation.HEADER] = correlation.encode(message.contexts)
        _, arguments, embedded = self._body
        logger.debug("sent", task_id=name, batch_ids=ids, request_ids=correlation.request_ids(message.contexts, ids))
        self._producer.publish(
            [ids, arguments, embedded],
            serializer="json",
            routing_key=QUEUE_NAME,
            headers=headers,
            correlation_id=name,
            delivery_mode=PERSISTENT,
        )
        if self._confirms:
            self._sent += 1
            self._unconfirmed.add(self._sent)

    def _confirmed(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {one for one in self._unconfirmed if one > tag}
        else:
            self._unconfirmed.discard(tag)

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._refused = True
        self._confirmed(tag, multiple)
