"""Sends new outbox rows to the workers after the commit. Best effort: the sweep sends lost ones again."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from celery import Celery

from comment_monitor.core.circuit_breaker import Breaker
from comment_monitor.messaging.producer import ConfirmingProducer, OutboxMessage
from comment_monitor.observability import logs, metrics, tracing
from comment_monitor.observability.correlation import RequestContext, RequestContexts, unique

logger = logs.get(__name__)

# Batches that may wait in the workers' queue. Further ones wait in the outbox, which costs the broker nothing.
QUEUE_LIMIT: Final = 10_000
POLL_EVERY: Final = 1.0
# Seconds without a response after which the broker counts as unavailable; the call may time out only later.
SILENT_AFTER: Final = 5.0
SPAN: Final = "send comment-analysis"
# Messages that are sent before waiting for their confirmations.
MESSAGES_AT_ONCE: Final = 4


class PendingId(NamedTuple):
    """An outbox row to send, and the requests behind it."""

    outbox_id: int
    contexts: Sequence[RequestContext]


class Publisher:
    """Sends from a separate thread, so that a slow or unavailable broker delays no request.

    Holds at most 10,000 ids. Drops further ids, and all ids while the broker is unavailable: the outbox has their rows.
    Without an application (no broker is configured) drops all ids. A message names at most `ids_per_message` of the ids
    that are queued when it is sent.
    """

    def __init__(self, app: Celery | None, *, ids_per_message: int = 1):
        self._link = ConfirmingProducer(app) if app else None
        self._max_ids_per_message = ids_per_message
        self._ids_per_message = ids_per_message
        # Ids that may still be sent, as set by `bound`; None: not set yet.
        self._allowed: int | None = None
        # Messages that no worker had taken at the last poll of the broker.
        self._messages_waiting = 0
        self._ids: queue.Queue[PendingId | None] = queue.Queue(maxsize=QUEUE_LIMIT)
        self._breaker = Breaker()
        self._reached = False
        # The begin (of `time.monotonic`) of the call to the broker that is in progress.
        self._call_began: float | None = None
        # The estimated number of ids in the workers' queue: those at the last poll, and those sent since.
        self._depth = 0.0
        self._polled = -POLL_EVERY
        # (ids, messages) sent since the last poll, and the average ids in a message of an earlier interval.
        self._sent = (0, 0)
        self._ids_a_message = 1.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        if self._link:
            self._thread.start()

    @property
    def state(self) -> str:
        """The last known state: `ok`, `away` (unavailable or not responding), or `off` (no broker is configured)."""
        if not self._link:
            return "off"
        silent = self._call_began is not None and time.monotonic() - self._call_began > SILENT_AFTER
        return "ok" if self._reached and not silent else "away"

    @property
    def free_capacity(self) -> int:
        """The number of further ids that would reach the workers' queue now; 0 while the broker is unavailable.

        Other processes send too, and each polls the broker once a second, so the queue may slightly exceed its limit.
        """
        if not (self._reached and self._breaker.closed):
            return 0
        # `unfinished_tasks` instead of `qsize`: it includes ids that the thread has taken out but not yet added to the
        # depth. Read before the depth: ids that are sent in between count twice, but are never missed.
        unfinished = self._ids.unfinished_tasks
        free = QUEUE_LIMIT - unfinished - int(self._depth)
        return max(0, free if self._allowed is None else min(free, self._allowed))

    @property
    def messages_waiting(self) -> bool:
        """Whether the broker holds messages that no worker has taken; False while the broker is unavailable."""
        return self._reached and self._breaker.closed and self._messages_waiting > 0

    def bound(self, ids: int, *, ids_per_message: int) -> None:
        """Sets the number of further ids that may be sent until the next call, and of ids that a message may name."""
        self._allowed = ids
        self._ids_per_message = max(1, min(ids_per_message, self._max_ids_per_message))

    def publish(self, outbox_ids: Sequence[int], contexts: RequestContexts | None = None) -> None:
        """Hands ids, and the known requests behind them, to the thread; never blocks."""
        if not self._link or not self._breaker.closed:
            return
        for id_ in outbox_ids:
            try:
                self._ids.put_nowait(PendingId(id_, contexts.get(id_, ()) if contexts else ()))
            except queue.Full:
                metrics.count_error("broker")
                return
            if self._allowed is not None:
                self._allowed -= 1

    def close(self, timeout: float) -> None:
        """Drains the queued ids and ends the thread.

        Waits at most `timeout` seconds for a free place in the queue, and at most as long again for the thread.
        """
        if not self._link:
            return
        try:
            self._ids.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            # Polls also without ids to send: nothing else shows whether the broker is available.
            if time.monotonic() >= self._polled + POLL_EVERY and self._breaker.closed:
                self._try(self._poll)
                self._polled = time.monotonic()
            try:
                ids = self._take()
            except queue.Empty:
                continue
            ending = ids[-1] is None
            if (pending := [id_ for id_ in ids if id_ is not None]) and self._breaker.closed:
                self._try(partial(self._send, pending))
            for _ in ids:
                self._ids.task_done()
            if ending:
                self._try(self._disconnect)
                return

    def _take(self) -> list[PendingId | None]:
        """Waits for and returns the queued ids, at least one. None, always last, means the end.

        Raises:
            queue.Empty: no id arrived within `POLL_EVERY` seconds.
        """
        ids = [self._ids.get(timeout=POLL_EVERY)]
        with suppress(queue.Empty):
            while ids[-1] is not None and len(ids) < self._max_ids_per_message * MESSAGES_AT_ONCE:
                ids.append(self._ids.get_nowait())
        return ids

    def _try(self, act: Callable[[], None]) -> None:
        self._call_began = time.monotonic()
        try:
            act()
        except Exception as error:  # noqa: BLE001 - after any error the sweep sends again and the thread continues
            self._reached = False
            self._disconnect()
            metrics.count_error("broker")
            if self._breaker.failure():
                logger.warning("broker_away", error=type(error).__name__, effect="the sweep sends again")
        else:
            self._reached = True
            if self._breaker.success():
                logger.info("broker_back")
        finally:
            self._call_began = None

    def _poll(self) -> None:
        """Polls the number of queued messages; estimates how many ids they name, from those that this process sent."""
        assert self._link  # noqa: S101 - the thread runs only with a broker
        ids, messages = self._sent
        if messages:
            self._ids_a_message = ids / messages
        self._messages_waiting = self._link.depth()
        self._depth = self._messages_waiting * self._ids_a_message
        self._sent = (0, 0)

    def _disconnect(self) -> None:
        """Closes the connection, which may not have noticed that it is dead; the next use opens another one."""
        assert self._link  # noqa: S101 - the thread runs only with a broker
        self._link.close()

    def _send(self, waiting: Sequence[PendingId]) -> None:
        assert self._link  # noqa: S101 - the thread runs only with a broker
        contexts = {row.outbox_id: row.contexts for row in waiting if row.contexts}
        with tracing.Several(SPAN, "PRODUCER", unique(contexts) if tracing.on() else ()) as spans:
            # The trace continues from the span of the sending.
            contexts = {
                id_: [spans.inside.get(context, context) for context in members] for id_, members in contexts.items()
            }
            # Read once, because another thread may change it.
            ids_per_message = self._ids_per_message
            groups = [waiting[at : at + ids_per_message] for at in range(0, len(waiting), ids_per_message)]
            messages = [
                OutboxMessage(ids, {id_: contexts[id_] for id_ in ids if id_ in contexts})
                for group in groups
                if (ids := [row.outbox_id for row in group])
            ]
            self._link.send(messages)
        self._depth += len(waiting)
        self._sent = (self._sent[0] + len(waiting), self._sent[1] + len(messages))
