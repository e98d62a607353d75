"""Combines a busy worker's buffered messages into one task: one pass of the analysers, one transaction, one commit.

This Celery strategy runs between the broker and Celery's own strategy, which still makes the request, limits its time
and acknowledges it. While every process is busy, arriving messages are buffered; when a process is free, the buffered
messages are dispatched to it as one task. A single message is dispatched without waiting for others. The size of a task
depends on the duration of the tasks before it: if an analysis is slow, a task of many comments would exceed its limit.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from celery.worker.strategy import default

from comment_monitor.core.config import load
from comment_monitor.messaging.celery_app import batches_together
from comment_monitor.observability import correlation, logs

logger = logs.get(__name__)

Handler = Callable[..., Any]

# Maximum intended seconds of a task.
SECONDS_A_TASK: Final = 2.0


class BufferedMessage(NamedTuple):
    """A message with the arguments that Celery's consumer passes to a strategy."""

    message: Any
    body: Any
    ack: Handler
    reject: Handler
    callbacks: Any

    @property
    def batches(self) -> list[int]:
        """The ids of the outbox rows that the message names."""
        arguments: list[int] = self.message.payload[0]
        return arguments


class MessageCoalescer:
    """Dispatches buffered messages to Celery's own handler, several as one task.

    Args:
        handle: Celery's own handler.
        later: runs a function in the loop's next iteration.
        slots: maximum number of unfinished tasks; while it is reached, arriving messages are buffered.
        max_batches: maximum number of batches in a task, unless a single message has more.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        handle: Handler,
        later: Callable[[Callable[[], None]], object],
        *,
        slots: int,
        max_batches: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._handle = handle
        self._later = later
        self._slots = slots
        self._limit = max_batches
        self._clock = clock
        # Moving average of the seconds per batch, including the wait for a process; None until the first task ends.
        self._pace: float | None = None
        self._buffered: list[BufferedMessage] = []
        self._running = 0

    def __call__(self, message: Any, body: Any, ack: Handler, reject: Handler, callbacks: Any, **more: Any) -> None:
        """Buffers a message from the consumer, or dispatches it alone if it is redelivered."""
        if message.delivery_info.get("redelivered"):
            # It may have killed its worker, and other messages in its task would fail with it.
            self._handle(message, body, ack, reject, callbacks, **more)
            return
        self._buffered.append(BufferedMessage(message, body, ack, reject, callbacks))
        # Not at once, so that messages that arrive in the same iteration are in the same task.
        self._later(self._dispatch)

    def _dispatch(self) -> None:
        while self._buffered and self._running < self._slots:
            number = self._fitting()
            group, self._buffered = self._buffered[:number], self._buffered[number:]
            self._running += 1
            first = group[0]
            batches, began = [batch for member in group for batch in member.batches], self._clock()
            if len(group) > 1:
                _, named, embedded = first.message.payload
                first.message.body = json.dumps([batches, named, embedded]).encode()
                ids = [member.message.headers.get("id") for member in group]
                logger.debug("gathered", task_id=ids[0], task_ids=ids)
                if merged := correlation.merge(member.message.headers.get(correlation.HEADER) for member in group):
                    first.message.headers[correlation.HEADER] = merged
            ack, reject = (
                partial(self._ended, [getattr(member, name) for member in group], len(batches), began)
                for name in ("ack", "reject")
            )
            self._handle(first.message, first.body, ack, reject, first.callbacks)

    def _fitting(self) -> int:
        """Returns the number of buffered messages, at least one, for the next task."""
        batches = 0
        for number, buffered in enumerate(self._buffered):
            batches += len(buffered.batches)
            if number and batches > self._max_batches:
                return number
        return len(self._buffered)

    @property
    def _max_batches(self) -> int:
        """The maximum number of batches in a task, at the present pace."""
        if not self._pace:
            return self._limit
        return max(1, min(self._limit, int(SECONDS_A_TASK / self._pace)))

    def _ended(self, answers: list[Handler], batches: int, began: float, *args: Any, **more: Any) -> None:
        """Passes the task's acknowledgement or rejection on to each of its messages."""
        pace = (self._clock() - began) / batches
        self._pace = pace if self._pace is None else (self._pace + pace) / 2
        self._running -= 1
        for answer in answers:
            answer(*args, **more)
        self._later(self._dispatch)


def strategy(task: Any, app: Any, consumer: Any, **more: Any) -> Handler:
    """Returns the handler of a task's messages; a task names this function as its `Strategy`."""
    handle: Handler = default(task, app, consumer, **more)
    if not consumer.hub:
        # A pool of threads, or none: without an event loop, nothing could dispatch buffered messages later.
        return handle
    # For each process one running task, and one more that is ready.
    slots = consumer.pool.num_processes + 1
    return MessageCoalescer(handle, consumer.hub.call_soon, slots=slots, max_batches=batches_together(load()))
