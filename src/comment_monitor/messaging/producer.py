"""A connection to the broker that sends many messages before it waits for all their confirmations.

Celery's `send_task` waits for each confirmation: this costs a round trip and 0.4 ms of Python per message, and delays
the requests of the same process. Here Celery builds a template once, and this module fills it in for each message.
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
    """The broker rejected a message."""


class OutboxMessage(NamedTuple):
    """The outbox rows of one task, and the requests that sent their comments, as far as they have a request id."""

    outbox_ids: Sequence[int]
    contexts: RequestContexts


class ConfirmingProducer:
    """Connects on first use. After an error, the caller must call `close`; the next use connects again.

    Only one thread may use it.
    """

    def __init__(self, app: Celery):
        self._app = app
        self._connection: kombu.Connection | None = None
        self._producer: Any = None
        task = app.amqp.as_task_v2(str(uuid.uuid4()), ANALYSE, args=(0,))
        self._body = task.body
        # Empty headers are left out: a worker assumes the same values by default, and each header costs time here, in
        # the worker and at the broker.
        self._headers = {name: value for name, value in task.headers.items() if value not in (None, {}, [None, None])}
        # The broker confirms messages by their number in the channel. `_sent` is the last number, `_unconfirmed` holds
        # the numbers that are not confirmed yet.
        self._sent = 0
        self._unconfirmed: set[int] = set()
        self._refused = False
        self._confirms = False

    def send(self, messages: Sequence[OutboxMessage]) -> None:
        """Sends a task for each message; returns once the broker has confirmed all of them.

        With a broker that sends no confirmations, such as Redis, it returns once all messages are sent.

        Raises:
            NotTakenError: the broker rejected a message.
            Exception: any error of the broker's client while the broker is unavailable.
        """
        connection = self._connect()
        for message in messages:
            self._publish(message)
        while self._unconfirmed:
            connection.drain_events(timeout=SILENCE)
        if self._refused:
            self._refused = False
            raise NotTakenError

    def depth(self) -> int:
        """Returns the number of messages in the broker's queue."""
        # The response holds the queue's name, its number of messages and its number of consumers, but the library's
        # type declares the name only.
        response: Any = self._app.amqp.queues[QUEUE_NAME](self._connect().default_channel).queue_declare()
        depth: int = response[1]
        return depth

    def close(self) -> None:
        """Closes the connection, and ignores the errors of a broken one."""
        connection, self._connection = self._connection, None
        if connection:
            with suppress(Exception):
                connection.collect(socket_timeout=1)

    def _connect(self) -> kombu.Connection:
        if self._connection:
            return self._connection
        connection = self._app.connection_for_write()
        # With this option on, each publish would wait for its confirmation.
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
        # The queue is declared here too, as the workers declare it: if it did not exist, the broker would confirm
        # messages and drop them.
        self._app.amqp.queues[QUEUE_NAME](channel).declare()
        self._connection = connection
        return connection

    def _publish(self, message: OutboxMessage) -> None:
        task_id = str(uuid.uuid4())
        ids = message.outbox_ids
        headers = {**self._headers, "id": task_id, "root_id": task_id, "argsrepr": str(tuple(ids))}
        if message.contexts:
            headers[correlation.HEADER] = correlation.encode(message.contexts)
        _, arguments, embedded = self._body
        logger.debug("sent", task_id=task_id, batch_ids=ids, request_ids=correlation.request_ids(message.contexts, ids))
        self._producer.publish(
            [ids, arguments, embedded],
            serializer="json",
            routing_key=QUEUE_NAME,
            headers=headers,
            correlation_id=task_id,
            delivery_mode=PERSISTENT,
        )
        if self._confirms:
            self._sent += 1
            self._unconfirmed.add(self._sent)

    def _confirmed(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {number for number in self._unconfirmed if number > tag}
        else:
            self._unconfirmed.discard(tag)

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._refused = True
        self._confirmed(tag, multiple)
