"""How a worker takes several waiting messages as one task: one pass of the analysers, one transaction, one commit.

A Celery strategy: it stands between the broker and Celery's own, which still makes the request, watches its time and
acknowledges it. While every process is busy the messages that come are buffered; what is buffered when a process
is free goes to it as one task. A message that is alone goes alone: nothing waits for company. The size of a task
depends on how long the tasks before took: where an analysis is slow, a task of many comments would reach its limit.
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

# Seconds that a task should take at most.
SECONDS_A_TASK: Final = 2.0


class BufferedMessage(NamedTuple):
    """A message as Celery's consumer hands it over."""

    message: Any
    body: Any
    ack: Handler
    reject: Handler
    callbacks: Any

    @property
    def batches(self) -> list[int]:
        """The outbox rows that it names."""
        arguments: list[int] = self.message.payload[0]
        return arguments


class MessageCoalescer:
    """Hands messages to `handle`, Celery's own handler: of `max_batches` batches at most as one task.

    Args:
        handle: Celery's own handler.
        later: runs a function in the loop's next turn.
        slots: tasks that may be on their way at once; messages that come meanwhile are buffered.
        max_batches: batches in a task at most, where one message alone does not have more.
        clock: seconds, from whenever.
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
        self._most = max_batches
        self._clock = clock
        # Seconds that a batch of the last tasks took, with its wait for a process; None: not known yet.
        self._pace: float | None = None
        self._buffered: list[BufferedMessage] = []
        self._running = 0

    def __call__(self, message: Any, body: Any, ack: Handler, reject: Handler, callbacks: Any, **more: Any) -> None:
        """Takes a message from the consumer."""
        if message.delivery_info.get("redelivered"):
            # It may have ended its worker: it must not take others with it.
            self._handle(message, body, ack, reject, callbacks, **more)
            return
        self._buffered.append(BufferedMessage(message, body, ack, reject, callbacks))
        # In a moment: what has arrived by then goes along.
        self._later(self._hand_over)

    def _hand_over(self) -> None:
        while self._buffered and self._running < self._slots:
            number = self._fitting()
            group, self._buffered = self._buffered[:number], self._buffered[number:]
            self._running += 1
            first = group[0]
            batches, began = sum(len(one.batches) for one in group), self._clock()
            if len(group) > 1:
                first.message.body = _merged_body(group)
                ids = [one.message.headers.get("id") for one in group]
                logger.debug("gathered", task_id=ids[0], task_ids=ids)
                if found := correlation.merge(one.message.headers.get(correlation.HEADER) for one in group):
                    first.message.headers[correlation.HEADER] = found
            ack, reject = (
                partial(self._ended, [getattr(one, name) for one in group], batches, began)
                for name in ("ack", "reject")
            )
            self._handle(first.message, first.body, ack, reject, first.callbacks)

    def _fitting(self) -> int:
        """How many of the buffered messages, at least one, go into a task."""
        batches = 0
        for number, one in enumerate(self._buffered):
            batches += len(one.batches)
            if number and batches > self._max_batches:
                return number
        return len(self._buffered)

    @property
    def _max_batches(self) -> int:
        """Batches in a task at most."""
        if not self._pace:
            return self._most
        return max(1, min(self._most, int(SECONDS_A_TASK / self._pace)))

    def _ended(self, answers: list[Handler], batches: int, began: float, *args: Any, **more: Any) -> None:
        """Each message gets the answer that the task got."""
        pace = (self._clock() - began) / batches
        self._pace = pace if self._pace is None else (self._pace + pace) / 2
        self._running -= 1
        for answer in answers:
            answer(*args, **more)
        self._later(self._hand_over)


def _merged_body(group: list[BufferedMessage]) -> bytes:
    """The body of a task with the batches of all."""
    _, words, embedded = group[0].message.payload
    return json.dumps([[batch for one in group for batch in one.batches], words, embedded]).encode()


def strategy(task: Any, app: Any, consumer: Any, **more: Any) -> Handler:
    """What a task names as its `Strategy`."""
    handle: Handler = default(task, app, consumer, **more)
    if not consumer.hub:
        # A pool of threads, or none: there is no loop in whose next turn what is buffered could be handed over.
        return handle
    # One at work for each process, and one at hand.
    slots = consumer.pool.num_processes + 1
    return MessageCoalescer(handle, consumer.hub.call_soon, slots=slots, max_batches=batches_together(load()))
